"""The network: HRNet backbone, FCN head, and what normalises over a gang of workers."""
