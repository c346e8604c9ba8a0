"""Adapters of our ports: S3, SQS, EventBridge, Secrets Manager, CloudWatch, HTTP, Qdrant."""
