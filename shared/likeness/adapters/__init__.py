"""The outside world behind our ports: S3, SQS, Secrets Manager, Qdrant."""
