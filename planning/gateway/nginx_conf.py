"""nginx.conf. It names no model and no key, so changing those never touches nginx."""

from collections.abc import Mapping
from dataclasses import dataclass

from planning.gateway.meshed import Meshed, meshed_conf
from planning.gateway.outside import Outside, outside_conf
from planning.names import LITELLM_ALIAS, LITELLM_PORT, NGINX_PORT
from stack_configs.schema.gateway import Gateway

ALIVE_PORT = 8081
"""Answers inside the container alone, for Docker's health check: is this nginx alive, whatever LiteLLM does."""
SHUTDOWN_S = 60
"""How long running answers may go on after SIGQUIT."""
WORKERS = 2
_TEMP_PATHS = "\n".join(
    f"    {name}_temp_path /tmp/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)
BEGINNING = f"""\
daemon off;
pid /tmp/nginx.pid;
# Its lower levels quote whole request lines, with query strings. The access log has the upstreams' failures.
error_log stderr crit;
worker_processes {WORKERS};
worker_shutdown_timeout {SHUTDOWN_S}s;

events {{
    worker_connections 4096;
}}

http {{
{_TEMP_PATHS}
"""
"""Of every nginx here: one process tree, logs to the container's streams, all that it writes on the tmpfs."""


@dataclass(frozen=True)
class Route:
    """One allowed path, and what LiteLLM calls it. LiteLLM gets this text, never the path as the client spelt it: `..`,
    `//` and %2F can't reach anything else. Query strings are dropped."""

    match: str
    method: str
    upstream: str


ROUTES = (
    Route("= /v1/chat/completions", "POST", "/v1/chat/completions"),
    Route("= /v1/completions", "POST", "/v1/completions"),
    Route("= /v1/embeddings", "POST", "/v1/embeddings"),
    Route("= /v1/models", "GET", "/v1/models"),
    Route('~ "^/v1/models/(?<model>[a-z][a-z0-9-]{1,39})$"', "GET", "/v1/models/$model"),
    Route("= /health", "GET", "/health/readiness"),
)

FORWARDED = ("Authorization", "Content-Type", "Accept", "User-Agent")
"""The client's headers that go on to LiteLLM. It takes orders from others (x-litellm-…: time-outs, tags, spend)."""

HIDDEN = (
    "X-Request-Id",
    "rate_limit_type",
    "reset_at",
    *(f"llm_provider-{name}" for name in ("content-type", "content-length", "connection", "server", "date")),
    *(
        f"x-litellm-{name}"
        for name in (
            *("call-id", "model-id", "model-name", "model-api-base", "model-group", "version", "timeout"),
            *("attempted-retries", "attempted-fallbacks", "max-retries", "key-spend"),
            *("response-duration-ms", "overhead-duration-ms", "callback-duration-ms", "response-cost"),
            *(
                f"response-cost-{part}"
                for part in (
                    *("original", "discount-amount", "margin-amount", "margin-percent"),
                    *("input", "output", "tool-usage"),
                )
            ),
        )
    ),
)
"""LiteLLM's headers that tell how the stack is built. What a client can use stays: its limits, retry-after."""

ERRORS = {
    400: ("invalid_request_error", "The request could not be read: check its headers."),
    404: ("invalid_request_error", "There is nothing here. The API is under /v1: see /v1/models."),
    405: ("invalid_request_error", "This path does not take this method."),
    408: ("invalid_request_error", "The request did not arrive in time."),
    411: ("invalid_request_error", "Send a Content-Length."),
    413: ("invalid_request_error", "The request body is larger than {max_body_mib} MiB."),
    414: ("invalid_request_error", "The address is too long."),
    500: ("api_error", "The gateway failed. Its log has the reason."),
    502: ("api_error", "The gateway is restarting. Try again in some seconds."),
    503: ("api_error", "The gateway is overloaded. Try again in some seconds."),
    504: ("api_error", "The answer took longer than {request_timeout_s} s."),
}
"""What nginx itself says, in the shape of OpenAI's errors. LiteLLM's own answers pass unchanged."""
NOT_LET_IN = {403: ("permission_error", "Requests from this address are not let in.")}
TLS_ERRORS = {
    495: ("permission_error", "This client certificate is not good here: it is expired, or of another authority."),
    496: ("permission_error", "Send a client certificate: this address asks for one."),
    497: ("invalid_request_error", "This address speaks HTTPS alone: write https:// before it."),
}
"""By nginx's own numbers for them."""
ANSWERED = {495: 403, 496: 403, 497: 400}
"""nginx's own number → the status that a client gets."""

ACCESS_LOG = {
    "time": "$time_iso8601",
    "log": "access",
    "request_id": "$id",
    "method": "$request_method",
    "path": "$path",
    "status": "$status",
    "bytes": "$body_bytes_sent",
    "request_time": "$request_time",
    "upstream_time": "$upstream_header_time",
    "upstream": "$upstream_addr",
    "upstream_status": "$upstream_status",
}


FROM_OUTSIDE = {"host": "$host", "client": "$remote_addr"}
"""What the access log has besides of requests from outside."""
FROM_MESH = {"client": "$remote_addr"}
"""What it has besides of requests over the mesh; with TLS also the name in the client's certificate."""


def nginx_conf(gateway: Gateway, outside: Outside | None = None, meshed: Meshed | None = None) -> str:
    """The whole file. Query strings, keys and bodies are in no log."""
    return f"""\
{BEGINNING}
    log_format line escape=json '{_json(ACCESS_LOG)}';
    access_log /dev/stdout line;
    server_tokens off;
    merge_slashes off;
    default_type application/json;

    # The client's id if it is one (letters, digits and . _ : -, at most 128), else ours.
    map $http_x_request_id $id {{
        default $request_id;
        "~^[A-Za-z0-9._:-]{{1,128}}$" $http_x_request_id;
    }}

    # As the client wrote it, without the query string: people put keys there.
    map $request_uri $path {{
        "~^(?<before>[^?]*)" $before;
    }}

    # LiteLLM instances come and go with new addresses: ask Docker's DNS anew, each second at most.
    resolver 127.0.0.11 valid=1s ipv6=off;
    resolver_timeout 3s;

    server {{
        listen 127.0.0.1:{ALIVE_PORT};
        access_log off;
        return 200 '{{"status":"alive"}}';
    }}

    server {{
        listen {NGINX_PORT};
{_api(gateway, ROUTES, ERRORS)}
    }}
{_outside(gateway, outside) if outside else ""}{_meshed(gateway, meshed) if meshed else ""}}}
"""


def _outside(gateway: Gateway, outside: Outside) -> str:
    # LiteLLM's health tells strangers its version.
    routes = tuple(route for route in ROUTES if route.match != "= /health")
    errors = {**NOT_LET_IN, **ERRORS}
    log = f"    log_format outside escape=json '{_json({**ACCESS_LOG, **FROM_OUTSIDE})}';"
    return f"\n{log}\n{outside_conf(outside, _api(gateway, routes, errors))}"


def _meshed(gateway: Gateway, meshed: Meshed) -> str:
    fields = {**ACCESS_LOG, **FROM_MESH, **({"certificate": "$ssl_client_s_dn"} if meshed.certificate else {})}
    errors = {**NOT_LET_IN, **(TLS_ERRORS if meshed.certificate else {}), **ERRORS}
    log = f"    log_format mesh escape=json '{_json(fields)}';"
    return f"\n{log}\n\n{meshed_conf(meshed, _api(gateway, ROUTES, errors))}"


def _api(gateway: Gateway, routes: tuple[Route, ...], errors: Mapping[int, tuple[str, str]]) -> str:
    """All of a server for the API but its listener."""
    # LiteLLM's own time-out comes first, so that the client reads its message.
    read_timeout = gateway.request_timeout_s + 15
    return f"""\
        client_max_body_size {gateway.max_body_mib}m;
        client_body_buffer_size 1m;
        client_body_timeout 60s;
        send_timeout {read_timeout}s;
        keepalive_timeout 75s;

        set $litellm {LITELLM_ALIAS};

        proxy_http_version 1.1;
        proxy_pass_request_headers off;
        proxy_set_header Host {LITELLM_ALIAS};
        proxy_set_header Connection "";
        proxy_set_header X-Request-Id $id;
{_lines("proxy_set_header", {name: "$http_" + name.lower().replace("-", "_") for name in FORWARDED})}
{_lines("proxy_hide_header", dict.fromkeys(HIDDEN, ""))}
        add_header X-Request-Id $id always;

        # A chunk goes out when it comes in.
        proxy_buffering off;
        proxy_cache off;
        proxy_connect_timeout 2s;
        proxy_send_timeout 60s;
        proxy_read_timeout {read_timeout}s;

        # An instance that stops refuses connections, or drops one that it had not taken up yet: ask the next one.
        # Asking twice for a completion changes nothing anywhere. After 10 s nothing is asked again: it was being
        # answered by then.
        proxy_next_upstream error timeout non_idempotent;
        proxy_next_upstream_tries 3;
        proxy_next_upstream_timeout 10s;

{_routes(routes)}
        location / {{
            return 404;
        }}

{_errors(gateway, errors)}"""


def _json(fields: Mapping[str, str]) -> str:
    return "{" + ",".join(f'"{key}":"{variable}"' for key, variable in fields.items()) + "}"


def _lines(directive: str, values: dict[str, str]) -> str:
    return "\n".join(f"        {directive} {name} {value}".rstrip() + ";" for name, value in values.items())


def _routes(routes: tuple[Route, ...]) -> str:
    return "\n".join(
        f"""\
        location {route.match} {{
            if ($request_method != {route.method}) {{ return 405; }}
            proxy_pass http://$litellm:{LITELLM_PORT}{route.upstream};
        }}
"""
        for route in routes
    )


def _errors(gateway: Gateway, errors: Mapping[int, tuple[str, str]]) -> str:
    blocks = []
    for status, (kind, text) in errors.items():
        message = text.format_map(
            {"max_body_mib": gateway.max_body_mib, "request_timeout_s": gateway.request_timeout_s}
        )
        answer = ANSWERED.get(status, status)
        body = f'{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":"{answer}"}}}}'
        # Not a named location: nginx can't go to one before it has read the request line (400, 414).
        where = f"/.error/{status}"
        blocks.append(f"        error_page {status}{f' ={answer}' if answer != status else ''} {where};")
        blocks.append(f"        location = {where} {{ internal; return {answer} '{body}'; }}")
    return "\n".join(blocks)
