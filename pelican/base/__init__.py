"""What everything else stands on: models, files, processes, the network, metrics."""
