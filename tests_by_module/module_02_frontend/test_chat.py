"""What becomes of a chat on its way into the prompt."""

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.require import require
from fixtures.clients.inference import InferenceEndpoint, complete

ANSWERS_WITHIN_S = 30
CHAT = (
    {"role": "user", "content": "My dog is called Rex."},
    {"role": "assistant", "content": "A good name."},
    {"role": "user", "content": "What is my dog called?"},
)
MORE = " Remember that well."


@check(
    "M02-47",
    judged="prompt tokens of a chat of three messages against those of the same chat with some words more in each "
    "message in turn, and without its first two messages",
    evidence="table of chats",
    by_hand="curl FRONTEND/v1/chat/completions -d '{…}' with a longer first message: usage.prompt_tokens grows",
)
def test_every_message_of_a_chat_is_in_the_prompt(endpoint: InferenceEndpoint, evidence: Evidence):
    """Every message of a chat is in the prompt: more words in any of them are more prompt tokens."""
    chats = {"as it is": CHAT, "its last message alone": CHAT[-1:]}
    for number, message in enumerate(CHAT):
        longer = {**message, "content": message["content"] + MORE}
        chats[f"message {number + 1} longer"] = (*CHAT[:number], longer, *CHAT[number + 1 :])
    tokens = {name: prompt_tokens(endpoint, chat) for name, chat in chats.items()}
    evidence.table("chats", ["chat", "prompt tokens"], list(tokens.items()))
    whole = tokens.pop("as it is")
    findings = Findings()
    if whole <= (alone := tokens.pop("its last message alone")):
        findings.add(f"a chat of three messages has {whole} prompt tokens, its last message alone has {alone}")
    findings.extend(
        f"{name}: {count} prompt tokens, as many as before or fewer ({whole}): the chat template leaves it out"
        for name, count in tokens.items()
        if count <= whole
    )
    findings.judge()


def prompt_tokens(endpoint: InferenceEndpoint, chat: tuple[dict[str, str], ...]) -> int:
    answer = complete(endpoint, list(chat), timeout_s=ANSWERS_WITHIN_S, max_tokens=1)
    assert answer.ok, f"a chat of {len(chat)} messages is not answered: {answer.describe()}"
    return int(require((answer.usage or {}).get("prompt_tokens"), "usage.prompt_tokens of a chat"))
