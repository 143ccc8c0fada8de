"""nginx.conf: which paths there are, how streams pass, what is logged."""

import json

from planning.names import LITELLM_ALIAS, LITELLM_PORT, NGINX_PORT
from stack_configs.schema.gateway import Gateway

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models")
"""What clients may ask, exactly as written. All else is 404: LiteLLM's admin pages, metrics, the engines' own paths."""

DOCKER_DNS = "127.0.0.11"

LOG_FIELDS = {
    "time": "$time_iso8601",
    "request_id": "$rid",
    "method": "$request_method",
    # Without arguments: somebody will put a key there.
    "path": "$uri",
    "status": "$status",
    "bytes": "$body_bytes_sent",
    "request_s": "$request_time",
    "upstream_s": "$upstream_response_time",
    "upstream": "$upstream_addr",
}


def nginx_conf(gateway: Gateway) -> str:
    """The text of nginx.conf."""
    locations = "\n".join(
        f"        location = {path} {{ proxy_pass http://$litellm$uri$is_args$args; }}" for path in PATHS
    )
    log = json.dumps(LOG_FIELDS)
    return f"""\
worker_processes auto;
pid /tmp/nginx.pid;
error_log /dev/stderr warn;
events {{ worker_connections 2048; }}

http {{
    server_tokens off;
    access_log off;
    log_format json escape=json '{log}';
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;

    # A client's own id goes through, when it looks like one.
    map $http_x_request_id $rid {{
        default $request_id;
        "~^[A-Za-z0-9._-]{{1,128}}$" $http_x_request_id;
    }}

    # Asked anew, so that an instance that comes or goes needs no restart here.
    resolver {DOCKER_DNS} valid=1s ipv6=off;
    resolver_timeout 5s;

    server {{
        listen {NGINX_PORT};
        merge_slashes off;
        access_log /dev/stdout json;
        client_max_body_size {gateway.max_body_mib}m;
        client_body_buffer_size 1m;
        default_type application/json;
        set $litellm {LITELLM_ALIAS}:{LITELLM_PORT};

        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Request-Id $rid;
        proxy_set_header X-Forwarded-For $remote_addr;
        # Tokens reach the client as they are made.
        proxy_buffering off;
        proxy_connect_timeout 5s;
        proxy_send_timeout {gateway.request_timeout_s}s;
        proxy_read_timeout {gateway.request_timeout_s + 30}s;
        # An instance that stops refuses connections: the next one is asked. A completion changes nothing, so asking
        # again after a broken connection is safe as long as no byte of an answer has come.
        proxy_next_upstream error non_idempotent;
        proxy_next_upstream_tries 4;
        add_header X-Request-Id $rid always;

{locations}
        location ~ ^/v1/models/[A-Za-z0-9._-]+$ {{ proxy_pass http://$litellm$uri; }}
        location = /health {{ proxy_pass http://$litellm/health/liveliness; }}
        location = /nginx-health {{ access_log off; return 200 "ok"; }}
        location / {{ return 404 '{_error("there is no such path here; see /v1/models", "not_found")}'; }}

        error_page 413 @too_large;
        location @too_large {{ return 413 '{_error("the request is too large", "too_large")}'; }}
        error_page 502 503 504 @away;
        location @away {{ return 503 '{_error("the gateway is starting or stopping; try again", "unavailable")}'; }}
    }}
}}
"""


def _error(message: str, kind: str) -> str:
    """An error as OpenAI's clients expect it."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": kind}})
