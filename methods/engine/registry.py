"""Methods by name. Whose name the table in methods/__init__.py has is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from attnbias.methods import METHODS, TASKS
from attnbias.methods.engine.description import Description
from attnbias.methods.engine.errors import UsageError, did_you_mean
from attnbias.methods.engine.types import Fields

if TYPE_CHECKING:  # it imports torch
    from attnbias.methods.engine.method import AnyMethod


def get_description(name: str) -> Description:
    """Return what is known of the method called `name`, without torch.

    Raises:
        UsageError: no method has this name; the nearest name is offered.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}'{did_you_mean(name, METHODS)}; one of: {', '.join(METHODS)}")
    description: Description = import_module(METHODS[name]).DESCRIPTION
    return description


def method_of_task(paper: str, task: str) -> str:
    """The name of the method that does a task of a paper.

    Raises:
        UsageError: the paper has no such task; the nearest is offered.
    """
    tasks = TASKS.get(paper, {})
    if task not in tasks:
        known = f"{did_you_mean(task, tasks)}; one of: {', '.join(tasks)}" if tasks else "; leave --task out"
        raise UsageError(f"--task {task}: {paper} has no such task{known}")
    return tasks[task]


def method_and_fields(paper: str, fields: Fields) -> tuple[str, Fields]:
    """The method that does what a field `task` asks of a paper, and the other fields; `task` stays where it is one.

    Raises:
        UsageError: there is no such method or task.
    """
    get_description(paper)
    if paper not in TASKS or "task" not in fields:
        return paper, fields
    name = method_of_task(paper, fields["task"])
    known = get_description(name).recipe_type.model_fields
    return name, {field: value for field, value in fields.items() if field != "task" or field in known}


def get_method(name: str) -> AnyMethod:
    """Import and return the method called `name`.

    Raises:
        UsageError: as `get_description`.
    """
    get_description(name)
    method: AnyMethod = import_module(f"{METHODS[name]}.method").METHOD
    return method
