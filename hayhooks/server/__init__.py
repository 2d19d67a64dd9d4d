"""The process: uvicorn, its protocol, workers and signals."""
