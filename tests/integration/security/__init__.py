"""Who may do what: ports that listen, routes that answer, places where a secret could lie."""
