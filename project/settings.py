"""Settings. Those that differ between machines come from the environment (docs/settings.md)."""

from __future__ import annotations

from pathlib import Path

from csp.constants import NONE, SELF
from django.contrib.messages.constants import ERROR, INFO, SUCCESS, WARNING

from project.environment import (
    create_data_dir,
    gateway_origins,
    package_dir,
    postgres,
    read_environment,
    sqlite,
    stored_secret_key,
)

environment = read_environment()

BASE_DIR = Path(__file__).resolve().parent.parent
NINJA = package_dir("ninja")
DATA_DIR = create_data_dir(environment.data_dir)

SECRET_KEY = environment.secret_key or stored_secret_key(DATA_DIR)
DEBUG = False
ALLOWED_HOSTS = environment.allowed_hosts or ["localhost", "127.0.0.1", "[::1]"]
CSRF_TRUSTED_ORIGINS = environment.trusted_origins
# Everything is served below this path (project.base_path).
FORCE_SCRIPT_NAME = environment.base_path or None

# Not daphne and not ninja: they would load Twisted and the API into every command, which costs
# memory and time. The server imports daphne itself; ninja's static files are served (below).
INSTALLED_APPS = [
    "project",
    "switcher",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "django_htmx",
    "template_partials",
    "csp",
]

MIDDLEWARE = [
    "switcher.api.health.HealthMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "project.static.StaticMiddleware",
    "project.compression.PageCompression",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "switcher.panel.signin.SignInMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

# Messages are shown as notices, in the style of their state.
MESSAGE_TAGS = {INFO: "busy", SUCCESS: "ok", WARNING: "warning", ERROR: "failed"}

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # In a wheel the templates lie inside the package and APP_DIRS finds them.
        "DIRS": [BASE_DIR / "templates", NINJA / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "builtins": ["switcher.panel.filters", "switcher.panel.components"],
        },
    }
]

DATABASES = {
    "default": postgres(environment.database_url) if environment.database_url else sqlite(DATA_DIR)
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNEL_LAYERS = {"default": {"BACKEND": "switcher.live.layer.MemoryLayer"}}

AUTHENTICATION_BACKENDS = [
    "switcher.panel.signin.PasswordBackend",
    "switcher.access.RoleBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]
SWITCHER_LOGIN_FAILURES = environment.login_failures
SWITCHER_LOGIN_LOCKOUT_MINUTES = environment.login_lockout_minutes

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "board"
LOGOUT_REDIRECT_URL = "login"

SESSION_COOKIE_NAME = "session_id"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = f"{environment.base_path}/"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = environment.https
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if environment.behind_proxy else None
# Peers whose X-Forwarded-For is trusted.
SWITCHER_TRUSTED_PROXIES = [str(network) for network in environment.trusted_proxies] or (
    ["127.0.0.1", "::1"] if environment.behind_proxy else []
)
CSRF_FAILURE_VIEW = "switcher.panel.views.account.csrf_failure"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "connect-src": [SELF],
        "img-src": [SELF],
        "font-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "manifest-src": [SELF],
    }
}

STATIC_URL = "static/"
STATICFILES_DIRS = [d for d in [BASE_DIR / "static", NINJA / "static"] if d.is_dir()]
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False
# For names without a hash, which are revalidated on each use (project.static).
WHITENOISE_MAX_AGE = 0
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "project.static.HashedStorage"},
}

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "filters": {
        "hide_keys": {"()": "project.hidden_keys.HideKeys"},
        "quiet_refusals": {"()": "project.quiet_refusals.QuietRefusals"},
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "filters": ["quiet_refusals", "hide_keys"],
        }
    },
    "root": {"handlers": ["stderr"], "level": environment.log_level},
    "loggers": {
        "daphne": {"level": "WARNING"},
        "django.server": {"level": "WARNING"},
    },
}

# Clients without a key or a signed-in session are served only if the setting says that no proxy on
# this machine forwards requests, only on loopback, and never for calls that change a host.
SWITCHER_OPEN_GATEWAY = environment.open_gateway == "no-proxy"
SWITCHER_OPEN_GATEWAY_UNCONFIRMED = environment.open_gateway == "unconfirmed"
# Origins whose pages may use the gateway, and nothing else, from a browser.
SWITCHER_GATEWAY_ORIGINS = gateway_origins(environment.gateway_origins)
SWITCHER_GATEWAY_BODY_MB = environment.gateway_body_mb

# Whether hosts are reached through the environment's HTTP_PROXY. By default not: model servers are
# usually on the network that the proxy leads out of, and behind one their addresses cannot be
# checked.
SWITCHER_USE_PROXY = environment.use_proxy
# The key that encrypts the credentials of hosts, also outside of the database.
SWITCHER_HOST_KEY = str(environment.host_key or DATA_DIR / "host-credentials.key")

# The trail's signing key is stored outside of the database, whose password must not be enough to
# sign.
SWITCHER_AUDIT_KEY = str(environment.audit_key or DATA_DIR / "audit-key.pem")
SWITCHER_AUDIT_PUBLIC_KEYS = str(Path(SWITCHER_AUDIT_KEY).with_name("audit-keys.pub"))
SWITCHER_AUDIT_ORIGIN = environment.audit_origin
# Where checkpoints are sent, outside of the database.
SWITCHER_AUDIT_ANCHORS = (
    ""
    if environment.audit_anchors.strip().lower() == "off"
    else environment.audit_anchors or str(DATA_DIR / "anchors.txt")
)
SWITCHER_AUDIT_SYSLOG = environment.audit_syslog
SWITCHER_AUDIT_WEBHOOK = environment.audit_webhook
# Where old entries are moved, and after how many days; 0: never.
SWITCHER_AUDIT_SEGMENTS = str(environment.audit_segments or DATA_DIR / "audit-segments")
SWITCHER_AUDIT_KEEP_DAYS = environment.audit_keep_days
