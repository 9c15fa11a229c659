from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("switcher.api.urls")),
    path("", include("switcher.panel.urls")),
]

handler403 = "switcher.panel.views.account.forbidden"
handler404 = "switcher.panel.views.account.not_found"
handler500 = "switcher.panel.views.account.server_error"
