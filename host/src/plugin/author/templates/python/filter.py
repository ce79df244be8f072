"""A session of the filter, as the contract has it; what it does stands in judge.py."""

from componentize_py_types import Err
from wit_world.exports.filter import Batch, Failure_Malformed, Outcome, Plan

import judge
from syncline_bson import Malformed, documents


class Session:
    def __init__(self, config):
        self.config = config

    def plan(self) -> Plan:
        """Fields that the verdicts depend on. Say `replaces=True` before you replace a document."""
        return Plan(replaces=False, reads=["status"])

    def apply(self, batch: Batch) -> Outcome:
        verdicts = bytearray()
        try:
            for document in documents(batch.documents):
                verdicts.append(judge.judge(self.config, document))
        except Malformed:
            raise Err(Failure_Malformed(len(verdicts))) from None
        return Outcome(verdicts=bytes(verdicts), replacements=b"", rejects=[])
