"""The exceptions that `asd` raises for wrong input and broken surroundings.

    AsdError
    ├── ConfigError      a value, key, name or option the user gave is wrong
    │   └── PolicyMismatchError   the policy was fitted on another ladder
    ├── DataError        a trace, workload, baseline or artifact file is missing, broken or empty
    ├── EngineError      a stage cannot load or cannot answer
    │   └── PromptTooLongError    the prompt does not fit the stage's context
    └── StorageError     a result could not be written (disk full, no permission)

Every message names the offending value and the remedy; the CLI prints it and exits with code 2.
"""


class AsdError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(AsdError):
    """A value, key, name or option the user gave is wrong."""


class PolicyMismatchError(ConfigError):
    """The policy artifact was fitted on another ladder than the one it is asked to steer."""


class DataError(AsdError):
    """A trace, workload, baseline or artifact file is missing, broken or empty."""


class EngineError(AsdError):
    """A stage cannot be loaded or cannot answer."""


class PromptTooLongError(EngineError):
    """The prompt and the room for an answer exceed the stage's context."""


class StorageError(AsdError):
    """A result could not be written; what had been written before is intact."""
