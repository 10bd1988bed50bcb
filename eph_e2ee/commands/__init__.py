"""The operator's commands, `eph-e2ee vault …`: for who runs a bot, while the bot does not run."""
