"""HRNet semantic segmentation: recipes, model, data, training and evaluation, without any platform."""
