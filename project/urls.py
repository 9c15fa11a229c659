from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("switcher.api.urls")),
    path("", include("switcher.panel.urls")),
]

handler400 = "project.errors.bad_request"
handler403 = "switcher.panel.views.account.forbidden"
handler404 = "switcher.panel.views.account.not_found"
handler500 = "project.errors.server_error"
