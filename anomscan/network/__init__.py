"""Run an exported network.

From 1.29 on, onnxruntime reports its use to Microsoft and keeps a database of that in the home folder, unless
it is told not to before it is loaded. What is scored is nobody else's business: whoever wants it sets
``ORT_DISABLE_TELEMETRY=0``.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
