"""A scorer as one of the `reward_funcs` of TRL's GRPOTrainer, called here as the trainer calls it.

A reward is a number, or None where the response could not be judged: TRL leaves None out of its group's mean.
docs/serve.md shows the whole training script.
"""

from judges import load_scorer


def main() -> None:
    with load_scorer("length") as scorer:
        reward = scorer.as_reward_function()
        prompts = [[{"role": "user", "content": "Name a colour."}]] * 2
        completions = [[{"role": "assistant", "content": text}] for text in ("Blue.", "Any colour of the rainbow.")]
        print(reward(prompts=prompts, completions=completions))


if __name__ == "__main__":
    main()
