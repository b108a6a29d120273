"""Values of mutual information in nats, compared with other estimators on known answers."""
