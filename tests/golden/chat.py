"""fixtures/chat: chat templates in the styles of published models, conversations, and what Transformers makes of both.

A small byte-level tokeniser is made for each, so that the part of the ids that the assistant wrote is known as well.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from common import fresh, write_json

CHATML = """{% for message in messages %}
    {%- if loop.first and messages[0]['role'] != 'system' -%}
        {{ '<|im_start|>system\\nYou help where you can.<|im_end|>\\n' }}
    {%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{% endfor %}
{%- if add_generation_prompt -%}
    {{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""

GENERATION = """{%- for message in messages %}
{%- if message.role == "assistant" %}
<|im_start|>assistant
{% generation %}
{{ message.content }}<|im_end|>
{%- endgeneration %}

{% else %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""

# Tools as JSON, dates, namespaces and macros; the reasoning of earlier turns is left out.
TOOLS = """{%- macro part(message) -%}
    {%- if message.content is string -%}{{ message.content }}
    {%- else -%}
        {%- for item in message.content if item.type == "text" -%}{{ item.text }}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last=-1) -%}
{%- for message in messages -%}{%- if message.role == "user" -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- if tools %}
<|im_start|>system
{{ tools | tojson(indent=2) }}
{% for tool in tools %}
{{ loop.index }}. {{ tool | tojson }} {{ tool.function.name }} {{ tool.function.parameters.properties.keys() | list | length }} {{ tool.strict }} {{ tool.missing }}
{% endfor %}
<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == "system" and not loop.first %}{{- raise_exception("a system message must come first") }}{% endif %}
{%- set text = part(message) | trim %}
{%- if message.role == "assistant" and loop.index0 < ns.last and "</think>" in text %}
{%- set text = text.split("</think>")[-1].lstrip("\\n") %}
{%- endif %}
<|im_start|>{{ message["role"] }}
{{ text }}{% if message.tool_calls is defined and message.tool_calls %}
{% for call in message.tool_calls %}
{%- if call.function is not defined %}{% continue %}{% endif %}

<call>{{ call.function | tojson(ensure_ascii=True, sort_keys=true) }}</call>
{%- if loop.index > 1 %}{% break %}{% endif %}
{%- endfor %}
{%- endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

# The system message goes into the last user's turn, so that no earlier part of a conversation is its beginning.
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Roles must alternate: user, assistant, user, assistant") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- elif loop.nextitem is not defined or loop.previtem is defined and loop.previtem.role == "nobody" %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- elif system_message is defined and loop_messages | length - loop.index0 == 2 %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, not " ~ message.role) }}
    {%- endif %}
{%- endfor %}
"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

PLAIN = """{% for m in messages %}{{ m.role.upper() }}: {{ m.content.strip() }}
{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"""

IM = ["<|im_start|>", "<|im_end|>"]
TEMPLATES = {
    "chatml": (CHATML, "<|endoftext|>", "<|im_end|>", IM),
    "generation": (GENERATION, None, "<|im_end|>", IM),
    "tools": (TOOLS, None, "<|im_end|>", IM),
    "llama3": (
        LLAMA3,
        "<|begin_of_text|>",
        "<|eot_id|>",
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    ),
    "mistral": (MISTRAL, "<s>", "</s>", ["<s>", "</s>"]),
    "zephyr": (ZEPHYR, "<s>", "</s>", ["<s>", "</s>"]),
    "plain": (PLAIN, None, "</s>", ["</s>"]),
}


def says(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


CONVERSATIONS = {
    "one_question": says(("user", "How many ships?")),
    "an_answer": says(("user", "How many ships?"), ("assistant", "Nine.")),
    "two_turns": says(
        ("user", "How many ships?"), ("assistant", "Nine, I think"), ("user", "Sure?"), ("assistant", "Yes: nine.")
    ),
    "system": says(("system", "Answer briefly."), ("user", "Hello"), ("assistant", "Hi!"), ("user", "Bye")),
    "system_and_two_answers": says(
        ("system", "Be kind."), ("user", "a"), ("assistant", "a"), ("user", "a a"), ("assistant", "a")
    ),
    "unicode": says(("user", "日本語 😀 é\u0301?"), ("assistant", "Ünïcödé 👩‍👩‍👧 ok…")),
    "blanks": says(("user", "  two\n\nlines \n"), ("assistant", " \n an answer\twith blanks \n\n")),
    "empty": says(("user", ""), ("assistant", "")),
    "markup": says(("user", "<b>&amp;'\"\\ {{ 7 }} {% if %}"), ("assistant", "<|im_end|> </s> {{ no }}")),
    "two_users": says(("user", "a"), ("user", "b"), ("assistant", "c")),
    "starts_with_an_answer": says(("assistant", "Welcome!"), ("user", "Thanks")),
    "late_system": says(("user", "a"), ("system", "b"), ("assistant", "c")),
    "thinking": says(
        ("user", "1+1?"),
        ("assistant", "<think>\none and one\n</think>\n\nTwo."),
        ("user", "2+2?"),
        ("assistant", "<think>\ntwo and two\n</think>\n\nFour."),
    ),
}
SCHEMA = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The <weather> & \"more\" für Köln 😀",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "enum": []}, "a": {}}},
    },
    "strict": True,
    "numbers": [1, -2, 0.5, 1.0, 1e16, 1e-5, 1.5e-7, 123456789012345680.0, None, False],
}
CALLS = [{"function": {"name": "weather", "arguments": {"place": "Köln 😀"}}}, {}, {"function": {"b": 1, "a": [1]}}]
WITH_TOOLS = [
    *says(("system", "Use tools."), ("user", "Weather?")),
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "content": "21 °C"},
    {"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "image"}, {"type": "text", "text": "21."}]},
]


def make():
    folder = fresh("chat")
    for name, (template, bos, eos, specials) in TEMPLATES.items():
        tokenizer = make_tokenizer(folder / name, template, bos, eos, specials)
        cases = [case(tokenizer, title, messages, None) for title, messages in CONVERSATIONS.items()]
        if name == "tools":
            cases += [case(tokenizer, "tools", WITH_TOOLS, [SCHEMA, SCHEMA | {"strict": None}])]
            cases += [case(tokenizer, "no_tools", WITH_TOOLS, None)]
        write_json(folder / name / "cases.json", cases, depth=1)


def make_tokenizer(folder, template, bos, eos, specials):
    folder = fresh(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [m["content"] for messages in CONVERSATIONS.values() for m in messages]
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts + ["ASSISTANT: USER: an answer"] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    if folder.name in ("chatml", "zephyr"):
        config["chat_template"] = template
    elif folder.name == "mistral":
        config["chat_template"] = [{"name": "other", "template": "no"}, {"name": "default", "template": template}]
        config["eos_token"] = {"__type": "AddedToken", "content": eos, "special": True}
    else:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config, depth=1)
    return AutoTokenizer.from_pretrained(folder)


def case(tokenizer, name, messages, tools):
    """`text` and `prompt`, without and with the beginning of an answer; or `error`, what the template refuses with."""
    given = {"name": name, "messages": messages, "tools": tools}
    try:
        text = tokenizer.apply_chat_template(messages, tools, tokenize=False)
        prompt = tokenizer.apply_chat_template(messages, tools, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        return given | {"error": str(error)}
    whole = tokenizer.apply_chat_template(messages, tools, return_dict=True)
    masks = {}
    if "endgeneration" in tokenizer.chat_template:
        masked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        masks = {"assistant_masks": masked["assistant_masks"]}
    return given | {"text": text, "prompt": prompt, "input_ids": whole["input_ids"]} | masks
