"""Who reaches whom: a connection from each node to a listener at each node's data address."""

import json
from collections.abc import Sequence

from fixtures.basics.deadline import Deadline
from fixtures.basics.findings import Finding
from fixtures.basics.parallel import in_parallel
from fixtures.cluster.nodes import Node
from fixtures.cluster.nodes.answers import Port, Text, fitting, told
from fixtures.cluster.nodes.conversation import Conversation

LISTENS_WITHIN_S, CONNECTS_WITHIN_S = 20, 30
# says its port, or why it has none, and takes connections until its stdin ends
LISTEN = """
import json, os, socket, sys, threading
address, mark = sys.argv[1:]
def say(what):
    os.write(1, (mark + json.dumps(what) + "\\n").encode())
try:
    server = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
except OSError as error:
    say(str(error))
else:
    say(server.getsockname()[1])
    take = lambda: [server.accept()[0].close() for _ in iter(int, 1)]
    threading.Thread(target=take, daemon=True).start()
    os.read(0, 1)
"""
# tries all at once and prints what each said
CONNECT = """
import concurrent.futures, json, socket, sys
def why_not(address):
    try:
        socket.create_connection(address, timeout=3).close()
    except OSError as error:
        return str(error)
addresses = [tuple(each) for each in json.load(sys.stdin)]
with concurrent.futures.ThreadPoolExecutor(max(1, len(addresses))) as pool:
    print(json.dumps(list(pool.map(why_not, addresses))))
"""


def unreached(nodes: Sequence[Node]) -> list[Finding]:
    """A finding for each node that cannot listen at its data address, and for each pair that does not connect."""
    listeners: list[Conversation] = []

    def listen(node: Node) -> int | str:
        deadline = Deadline(LISTENS_WITHIN_S, f"a listener on {node.name}")
        talk = node.converse([node.python, "-I", "-S", "-c", LISTEN, node.address], deadline)
        listeners.append(talk)
        with talk.until(deadline):
            return fitting(node.name, "where it listens", talk.ask(), Port | Text)

    try:
        heard = dict(zip(nodes, in_parallel(listen, nodes), strict=True))
        ports = {node: port for node, port in heard.items() if isinstance(port, int)}
        failed = [
            Finding(f"{node.name} cannot listen at its data address {node.address}: {text}", node.name)
            for node, text in heard.items()
            if node not in ports
        ]

        def connect(source: Node) -> list[Finding]:
            argv = [source.python, "-I", "-S", "-c", CONNECT]
            sent = json.dumps([[node.address, port] for node, port in ports.items()]).encode()
            deadline = Deadline(CONNECTS_WITHIN_S, f"connections from {source.name}")
            printed = source.run(argv, stdin=sent, deadline=deadline).stdout
            answers = told(source.name, "who answers it", printed, list[Text | None])
            said = "{} does not reach {} at its data address {} ({})"
            return [
                Finding(said.format(source.name, target.name, target.address, why), way=(source.name, target.name))
                for target, why in zip(ports, answers, strict=True)
                if why
            ]

        return failed + [each for told in in_parallel(connect, nodes) for each in told]
    finally:
        in_parallel(lambda talk: talk.close(), listeners)
