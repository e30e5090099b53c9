"""What of a conversation is asked, and what is answered."""

from trainer.data.conversation import ASSISTANT, SYSTEM, USER, Conversation, Turn


def test_the_question_is_the_last_one_asked() -> None:
    turns = (Turn(USER, "one"), Turn(ASSISTANT, "1"), Turn(USER, "two"), Turn(ASSISTANT, "2"))
    assert Conversation(turns).question == "two"


def test_where_nobody_asked_the_question_is_empty() -> None:
    assert Conversation((Turn(SYSTEM, "Sing."), Turn(ASSISTANT, "La."))).question == ""
