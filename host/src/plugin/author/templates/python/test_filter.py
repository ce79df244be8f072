"""The logic, natively: python3 -m unittest"""

import struct
import unittest

import judge


def bson(document):
    """BSON of a document whose values are text or small whole numbers."""
    body = b""
    for name, value in document.items():
        key = name.encode() + b"\0"
        if isinstance(value, str):
            text = value.encode() + b"\0"
            body += b"\x02" + key + struct.pack("<i", len(text)) + text
        else:
            body += b"\x10" + key + struct.pack("<i", value)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


class FilterTest(unittest.TestCase):
    def test_documents_with_the_status_are_kept(self):
        config = judge.parse('{"status": "active"}')
        documents = [{"_id": 1, "status": "active"}, {"_id": 2, "status": "gone"}, {"_id": 3}, {"_id": 4, "status": 5}]
        verdicts = [judge.judge(config, bson(document)) for document in documents]
        self.assertEqual(verdicts, [judge.KEEP, judge.DROP, judge.DROP, judge.DROP])

    def test_a_configuration_that_cannot_be_used_names_its_key(self):
        for text in ("{}", '{"status": 1}', '{"status": "a", "other": 1}'):
            with self.assertRaises(judge.ConfigError):
                judge.parse(text)
