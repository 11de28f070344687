"""Check our export for Label Studio with its own SDK, in an environment of its own.

    .venv/label-studio/bin/python tests/helpers/label_studio.py FOLDER

It prints the URIs of the tasks, and ends with an error if the SDK refuses something.
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    from label_studio_sdk.label_interface import LabelInterface  # type: ignore[import-not-found]
    from label_studio_sdk.label_interface.objects import TaskValue  # type: ignore[import-not-found]

    folder = Path(sys.argv[1])
    interface = LabelInterface((folder / "label_studio.xml").read_text())
    interface.validate()
    tasks = json.loads((folder / "label_studio.json").read_bytes())
    for task in tasks:
        TaskValue(**task)
        # Without the predictions: validate_task calls their checks without the needed arguments.
        assert interface.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction, return_errors=True) == []
    print(json.dumps([task["data"]["audio"] for task in tasks]))
