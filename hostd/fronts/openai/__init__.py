"""What clients of OpenAI's API ask for: chat and text completions, and embeddings, of models that offer them.

A model offers text by a method `generate(prompt, **options)` that returns or yields pieces of text; `prompt` is a text,
or a list of messages (`{"role": ..., "content": ...}`) for a chat. It offers embeddings by `embed(texts)`, which
returns a row of numbers for each text. If it has `count_tokens(prompt)`, answers say how many tokens were used.
"""
