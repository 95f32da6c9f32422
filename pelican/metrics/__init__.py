"""The series that Pelican gives to Prometheus; without an exporter nothing is kept."""
