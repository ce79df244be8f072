"""The entrance: makes a session out of the operator's configuration."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.filter import Failure_Config, Options

import judge
from filter import Session


class Filter(exports.Filter):
    def init(self, options: Options) -> Session:
        try:
            return Session(judge.parse(options.config))
        except (judge.ConfigError, ValueError) as error:
            raise Err(Failure_Config(str(error))) from None
