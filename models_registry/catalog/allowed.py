"""May a model be loaded: are its files here, and do this server's settings allow it?

The scripted engine, and code that comes with a model, run only where a setting allows it. This is checked when a model
is added or changed, and again whenever it is loaded, so that a setting that was changed back holds for models that are
registered already.
"""

from django.conf import settings

from models_registry.catalog.folders import ModelError
from models_registry.engine.spec import EngineKind
from models_registry.models import Model, ModelState
from vbs.places import PROGRAM

TRUST = "models_registry.trust_model"  # the permission to let code run that comes with a model


def refusal(model: Model) -> str:
    """Why this server does not run the model's engine, and what would allow it; empty when it does."""
    model = model.base or model
    if model.kind == EngineKind.SCRIPTED and not settings.VBS_SCRIPTED_ENGINE:
        return (
            "scripted: is an engine for tests and demos that any request can stop, and this server does not run it: "
            "set VBS_SCRIPTED_ENGINE=true where all requests are your own"
        )
    if model.trust_remote_code and not settings.VBS_TRUST_REMOTE_CODE:
        return (
            f"{model.name} runs code that comes with it (trust_remote_code), and this server does not allow that: "
            "read the code, and set VBS_TRUST_REMOTE_CODE=true"
        )
    return ""


def not_ready(model: Model) -> str:
    """Why the model, or its base, cannot be loaded, and what to do; empty when it can. It has no paths or addresses,
    because everybody may read it."""
    model = model.base if model.base and model.base.state != ModelState.READY else model
    match model.state:
        case ModelState.DRAFT:
            return (
                f"{model.name} is a draft, its files are not here: fetch them with '{PROGRAM} model fetch {model.name}'"
            )
        case ModelState.DOWNLOADING:
            return f"{model.name} is being fetched or converted: '{PROGRAM} model show {model.name}' says how far it is"
        case ModelState.FAILED:
            return (
                f"{model.name} has failed: '{PROGRAM} model show {model.name}' says why, and "
                f"'{PROGRAM} model fetch {model.name}' tries again"
            )
    return refusal(model)


def check(model: Model) -> None:
    """Raises ModelError for a model that this server does not run."""
    if why := refusal(model):
        raise ModelError(why)


def trust_words(trusted: bool) -> str:
    """The detail of an entry in the audit log."""
    return f"Code that comes with it may {'' if trusted else 'not '}run here (trust_remote_code)."
