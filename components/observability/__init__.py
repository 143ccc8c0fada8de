"""Metrics, alerts, dashboards."""
