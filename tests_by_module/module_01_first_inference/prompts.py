"""What is asked: one sentence by most checks, and prompts of several kinds by those that count tokens."""

PROMPT = "The quick brown fox jumps over the lazy dog, and then"
MAX_TOKENS = 8
CHAT = [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Which animal jumps?"}]
PROMPTS: dict[str, str | list[dict[str, str]]] = {
    "word": "fox",
    "sentence": PROMPT,
    "unicode": "Füchse springen: 狐狸跳过 🦊",
    "chat": CHAT,
    "long": "over and over " * 200,
    "whitespace": "  two  spaces,\ttab\n\n\nlines \r\n and an end ",
    "special": "<|im_start|>user\nfox<|im_end|><|endoftext|>",
}
