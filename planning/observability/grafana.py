"""Grafana's own files and settings."""

from collections.abc import Mapping

import yaml

from planning.containers import FILES_DIR
from planning.names import PROMETHEUS_PORT
from planning.observability.dashboards import DATASOURCE_UID, dashboard_json
from stack_configs.schema.stack import StackSpec

ENVIRONMENT: Mapping[str, str] = {
    "GF_PATHS_PROVISIONING": FILES_DIR,
    "GF_AUTH_ANONYMOUS_ENABLED": "true",
    "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
    "GF_AUTH_BASIC_ENABLED": "false",
    "GF_AUTH_DISABLE_LOGIN_FORM": "true",
    "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
    "GF_USERS_ALLOW_SIGN_UP": "false",
    # Nothing is sent out, and nothing is fetched.
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    "GF_SNAPSHOTS_EXTERNAL_ENABLED": "false",
    "GF_SECURITY_DISABLE_GRAVATAR": "true",
    # Alerts are Prometheus' and Alertmanager's.
    "GF_UNIFIED_ALERTING_ENABLED": "false",
}


def files(spec: StackSpec) -> dict[str, str]:
    """Provisioning files: the data source, the dashboard, and where Grafana finds it."""
    datasource = {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Prometheus",
                "uid": DATASOURCE_UID,
                "type": "prometheus",
                "access": "proxy",
                "url": f"http://prometheus:{PROMETHEUS_PORT}",
                "isDefault": True,
                "editable": False,
                "jsonData": {"timeInterval": f"{spec.file.observability.prometheus.scrape_interval_s}s"},
            }
        ],
    }
    provider = {
        "apiVersion": 1,
        "providers": [
            {
                "name": "inference-stack",
                "type": "file",
                "allowUiUpdates": False,
                "disableDeletion": True,
                "options": {"path": f"{FILES_DIR}/dashboards/json"},
            }
        ],
    }
    return {
        "datasources/prometheus.yaml": yaml.safe_dump(datasource, sort_keys=False),
        "dashboards/provider.yaml": yaml.safe_dump(provider, sort_keys=False),
        "dashboards/json/inference-stack.json": dashboard_json(spec),
    }
