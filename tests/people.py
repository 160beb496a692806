"""People to sign in as, in tests of pages."""

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from vbs.accounts import roles

PASSWORD = "correct horse battery"


def client(user):
    made = Client()
    made.force_login(user)
    made.user = user
    return made


def person(role, *projects, name="", permissions=()):
    """Somebody with this role (or none) in these projects; who is signed in."""
    user = User.objects.create_user(name or f"{role or 'nobody'}{User.objects.count()}", password=PASSWORD)
    if role:
        roles.assign(user, role)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    user.projects.set(projects)
    return client(user)


def superuser(name="root"):
    return client(User.objects.create_superuser(name, password=PASSWORD))


def text(response):
    return response.content.decode()


@pytest.fixture
def root(db):
    """The browser of a superuser."""
    return superuser()
