"""Writes and learns by TRL when told to: trl_worker.py write|grpo FOLDER SETTING

FOLDER holds a Llama and its tokenizer.json; SETTING is JSON: prompts, group, response, learning_rate. Reads durations
in seconds, one a line, and answers each with tokens of responses per second. Stand-alone: it runs in interpreters that
lack this project.
"""

import json
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this folder: its modules would stand before installed ones

import torch  # type: ignore[import-not-found]
from transformers import (  # type: ignore[import-not-found]
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

TO_READER = sys.stdout
sys.stdout = sys.stderr  # of what libraries print


def main():
    kind, folder, setting = sys.argv[1:]
    setting = json.loads(setting)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    special = json.loads((Path(folder) / "tokenizer.json").read_text())["added_tokens"]
    pad, end = (x["content"] for x in special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{folder}/tokenizer.json", pad_token=pad, eos_token=end, padding_side="left"
    )
    {"write": write, "grpo": grpo}[kind](model, tokenizer, setting)


def write(model, tokenizer, setting):
    """Answers with the speed of `generate`, responses of full length."""
    prompts = [x for x in setting["prompts"] for _ in range(setting["group"])]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    length = setting["response"]
    model.eval()

    def run():
        with torch.inference_mode():
            model.generate(
                **inputs,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                min_new_tokens=length,
                max_new_tokens=length,
                pad_token_id=tokenizer.pad_token_id,
            )
        return len(prompts) * length

    run()
    answer("ready")
    for line in sys.stdin:
        tokens, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < float(line):
            tokens += run()
        answer(tokens / elapsed)


class Turns(TrainerCallback):
    """Lets the trainer step while it is asked to, and answers with its speed."""

    def __init__(self):
        self.tokens, self.begin, self.seconds = 0, 0.0, None

    def reward(self, completions, completion_ids, **_):
        """Returns the share of e in each response, and counts tokens."""
        self.tokens += sum(map(len, completion_ids))
        return [text.count("e") / max(len(text), 1) for text in completions]

    def on_step_begin(self, args, state, control, **_):
        """Waits for the next duration where the present one is over. The first step is not timed."""
        if not state.global_step:
            return
        elapsed = time.perf_counter() - self.begin
        if self.seconds is not None and elapsed < self.seconds:
            return
        answer("ready" if self.seconds is None else self.tokens / elapsed)
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        self.seconds, self.tokens, self.begin = float(line), 0, time.perf_counter()


def grpo(model, tokenizer, setting):
    """Answers with the speed of `GRPOTrainer`: one gradient step on each batch, no reference."""
    from datasets import Dataset  # type: ignore[import-not-found]
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

    turns = Turns()
    config = GRPOConfig(
        output_dir=str(Path(sys.argv[2]).parent / "trl"),
        per_device_train_batch_size=len(setting["prompts"]) * setting["group"],
        num_generations=setting["group"],
        max_completion_length=setting["response"],
        learning_rate=setting["learning_rate"],
        lr_scheduler_type="constant",
        max_steps=10**6,
        beta=0.0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=10**6,
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=turns.reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": x} for x in setting["prompts"]] * 64),
        callbacks=[turns],
    )
    trainer.train()


def answer(text):
    """Writes a line to the process that measures."""
    print(text, file=TO_READER, flush=True)


if __name__ == "__main__":
    main()
