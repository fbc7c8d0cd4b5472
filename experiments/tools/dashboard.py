"""``clipward dashboard``."""

from __future__ import annotations

import json

from datamodules.files.atomic import write_text
from datamodules.usage_error import UsageError
from experiments.workspace import make_workspace, specification


def dashboard(
    project: str = 'clipward', entity: str | None = None, title: str = 'Clipward', file: str | None = None
) -> None:
    """Make a workspace in W&B that shows a project's runs: attacks, accuracy, split, cost and pairs.

    Args:
        project: Project of the runs.
        entity: User or team that the project belongs to; by default that of the account.
        title: Name of the workspace.
        file: Write the workspace to this JSON file instead; that needs no account.
    """
    if file is not None:
        write_text(file, json.dumps(specification(make_workspace(entity or '', project, title)), indent=1) + '\n')
        print(f'Workspace: {file}', flush=True)
        return
    import wandb

    try:
        workspace = make_workspace(entity or wandb.Api().default_entity or '', project, title)
        workspace.save()
    except wandb.Error as error:
        reason = str(error).strip().splitlines()[0].rstrip('.')
        raise UsageError(
            f'the workspace was not made ({reason}): give an account by wandb login or WANDB_API_KEY, or --file to '
            'write it to a file.'
        ) from error
    print(f'Workspace: {workspace.url}', flush=True)
