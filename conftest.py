"""Loads the suite: the policy plugins, the fixtures over the library, and pytester for the suite's own tests."""

import plugins

pytest_plugins = [*plugins.ALL, "plugins.fixtures", "pytester"]
