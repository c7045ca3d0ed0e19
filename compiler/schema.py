"""`python -m rldsl.compiler.schema` prints the JSON Schema of plan.json."""

import json

from rldsl.compiler.plan import schema

if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, sort_keys=True))
