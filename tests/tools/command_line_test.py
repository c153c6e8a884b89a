#!/usr/bin/env python3
"""The program as a user meets it: exit codes, messages, JSON. usage: PROGRAM SOURCE_DIR"""

import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv[1]
SOURCE = pathlib.Path(sys.argv[2])
MODEL = str(SOURCE / "tools/demo/model")
TINY = str(SOURCE / "tests/fixtures/hf/llama_mha")


def run(*args, **kwargs):
    return subprocess.run([PROGRAM, *args], capture_output=True, timeout=300, check=False, **kwargs)


class CommandLine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.codebooks = cls.path(cls, "tiny.pqcb")
        done = run("train", "-m", MODEL, "--tokens", "1200", "--ctx", "600", "--pq", "16x4",
                   "--iterations", "4", "-o", cls.codebooks, "--json")
        assert done.returncode == 0, done.stderr
        cls.trained = json.loads(done.stdout)

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def path(self, name):
        return str(pathlib.Path(self.dir.name) / name)

    def expect(self, code, piece, *args, **kwargs):
        done = run(*args, **kwargs)
        message = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
        self.assertEqual(done.returncode, code, f"{args}: {message}")
        self.assertIn(piece, message)
        return done

    def generate(self, *args):
        done = self.expect(0, "tokens", "generate", "-m", MODEL, "-n", "12", "--json", *args)
        return json.loads(done.stdout)

    def test_usage_errors_exit_2(self):
        self.expect(2, "", )
        self.expect(2, "unknown command 'no-such-command', expected one of: train",
                    "no-such-command")
        self.expect(2, "", "generate", "--no-such-flag")
        self.expect(2, "--model is absent", "generate", "-p", "x")
        self.expect(2, "exactly one non-empty prompt", "generate", "-m", MODEL, "-p", "")
        self.expect(2, "unknown policy 'nope', expected one of: pq", "generate", "-m", MODEL,
                    "-p", "x", "--policy", "nope")
        self.expect(2, "needs --codebooks", "generate", "-m", MODEL, "-p", "x")
        self.expect(2, "local-window is 0", "generate", "-m", MODEL, "-p", "x", "--policy", "exact",
                    "--local-window", "0")
        self.expect(2, "expected a whole number", "generate", "-m", MODEL, "-p", "x",
                    "--policy", "exact", "-n", "many")
        self.expect(2, "expected one", "generate", "-m", MODEL, "-p", "x", "--policy", "exact",
                    "--attn-top-k", "5", "--attn-ratio", "0.5")
        self.expect(2, "a most of 0 tokens", "generate", "-m", MODEL, "-p", "x", "--policy",
                    "exact", "--attn-top-k", "0", "--attn-mass", "0.5")
        self.expect(2, "takes no --attn-mass", "generate", "-m", MODEL, "-p", "x", "--policy",
                    "pq:rerank=4", "--attn-mass", "0.5")
        self.expect(2, "takes no --attn-mass", "generate", "-m", MODEL, "-p", "x", "--policy",
                    "quest", "--attn-mass", "0.5")
        self.expect(2, "pq:rerank has no number, expected a whole number", "generate", "-m", MODEL,
                    "-p", "x", "--policy", "pq:rerank")
        self.expect(2, "--device is 'cuda'", "generate", "-m", MODEL, "-p", "x", "--device", "cuda")
        self.expect(2, "expected --device cuda with it", "generate", "-m", MODEL, "-p", "x",
                    "--policy", "exact", "--gpu-kv", "1M")
        self.expect(2, "unknown task 'nope'", "eval", "-m", MODEL, "--task", "nope")

    def test_help_lists_every_command(self):
        done = self.expect(0, "train", "--help")
        for name in ("generate", "check", "eval", "tokenize", "detokenize", "inspect", "doctor"):
            self.assertIn(name, done.stdout.decode())

    def test_failures_exit_1_and_name_the_thing(self):
        self.expect(1, "config.json", "generate", "-m", "/no/such/folder", "-p", "x",
                    "--policy", "exact")
        self.expect(1, "unknown store 'nope'", "generate", "-m", MODEL, "-p", "x",
                    "--policy", "exact", "--store", "nope")
        self.expect(1, "expected 0 to 4095", "generate", "-m", MODEL, "--prompt-tokens", "1,9999",
                    "--policy", "exact")
        self.expect(1, "no.pqcb", "generate", "-m", MODEL, "-p", "x", "--codebooks",
                    self.path("no.pqcb"))

    def test_prompt_longer_than_the_model(self):
        long = self.path("long.txt")
        pathlib.Path(long).write_text("word " * 20000, encoding="utf-8")
        self.expect(1, "expected 1 to the model's 16384", "generate", "-m", MODEL, "-f", long,
                    "--policy", "exact")

    def test_text_that_is_not_utf8(self):
        self.expect(1, "UTF-8", "generate", "-m", MODEL, "-p", b"\xff\xfe", "--policy", "exact")

    def test_tokenizer_round_trip(self):
        text = "Hello, world! na\u00efve \U0001f600"
        ids = json.loads(self.expect(0, "ids", "tokenize", "-m", MODEL, "-p", text,
                                     "--json").stdout)["ids"]
        back = self.expect(0, "", "detokenize", "-m", MODEL, "--tokens",
                           ",".join(map(str, ids))).stdout.decode()
        self.assertEqual(back, text + "\n")

    def test_train_reports_what_it_promises(self):
        for key in ("layers", "kv_heads", "pq", "bytes_per_key", "train_seconds", "relative_mse",
                    "file"):
            self.assertIn(key, self.trained)
        self.assertEqual(self.trained["bytes_per_key"], 8)
        recall = self.trained["recall_at_100"]["mean"]
        self.assertGreater(recall, 0.2)
        self.assertGreater(self.trained["recall_in_400"]["mean"], recall)
        self.assertTrue(self.trained["position_mean"])

    def test_codebooks_of_other_text_are_told_apart(self):
        english = (SOURCE / "LICENSE").read_text(encoding="utf-8")
        pathlib.Path(self.path("english.txt")).write_text(english, encoding="utf-8")
        codebooks = self.path("english.pqcb")
        self.expect(0, "", "train", "-m", MODEL, "--text", self.path("english.txt"), "--tokens",
                    "1400", "--ctx", "700", "--pq", "16x4", "--iterations", "4", "-o", codebooks)
        identifiers = ", ".join(f'"{hashlib.sha256(b"%d" % i).hexdigest()}"' for i in range(40))
        for text, foreign in ((english[:5000], False), (identifiers, True)):
            done = self.expect(0, "", "generate", "-m", MODEL, "--codebooks", codebooks, "-p", text,
                               "-n", "1", "--local-window", "32", "--json")
            fit = json.loads(done.stdout)["codebook_fit"]
            self.assertEqual(fit["mean"] > 1.3, foreign, fit)
            warned = "codebooks do not fit this text" in done.stderr.decode()
            self.assertEqual(warned, foreign, fit)
            widened = self.generate("--codebooks", codebooks, "-p", text, "--local-window", "32",
                                    "--attn-top-k", "20", "--on-misfit", "widen")["attention"]
            self.assertEqual(widened.get("ranked", 0) > 20, foreign, widened)
        short = self.generate("--codebooks", codebooks, "-p", "Too short to tell.")
        self.assertIsNone(short["codebook_fit"])

    def test_training_is_deterministic_for_any_thread_count(self):
        contents = []
        for threads in ("1", "3"):
            file = self.path(f"threads{threads}.pqcb")
            self.expect(0, "", "train", "-m", MODEL, "--tokens", "1200", "--ctx", "600", "--pq",
                        "16x4", "--iterations", "4", "-o", file, "-t", threads)
            contents.append(pathlib.Path(file).read_bytes())
        self.assertEqual(contents[0], contents[1])
        self.assertEqual(contents[0], pathlib.Path(self.codebooks).read_bytes())

    def test_policies_and_stores_agree_where_they_must(self):
        text = ["-p", "It was the best of times, it was the worst of times. " * 40,
                "--local-window", "32", "--page-tokens", "16", "--dtype", "float32"]
        exact = self.generate("--policy", "exact", *text)["tokens"]
        for policy in ("flat", "pq"):
            full = self.generate("--policy", policy, "--attn-ratio", "1", "--codebooks",
                                 self.codebooks, *text)
            self.assertEqual(full["tokens"], exact, policy)
        approximate = [
            self.generate("--codebooks", self.codebooks, "--attn-top-k", "64", "--store", store,
                          *text)
            for store in ("memory", "rocksdb:path=" + self.path("pages"),
                          "memory:limit=4M+rocksdb:path=" + self.path("tiers"))]
        self.assertEqual(approximate[0]["tokens"], approximate[1]["tokens"])
        self.assertEqual(approximate[0]["tokens"], approximate[2]["tokens"])
        self.assertGreater(approximate[1]["bytes_read"]["rocksdb"], 0)
        self.assertGreater(approximate[2]["kv_bytes_full"], 4 << 20)
        self.assertLessEqual(approximate[2]["kv_bytes_resident"], 4 << 20)
        for threads in ("1", "3", "8"):
            again = self.generate("--codebooks", self.codebooks, "--attn-top-k", "64", "-t",
                                  threads, *text)
            self.assertEqual(again["tokens"], approximate[0]["tokens"], threads)

    def test_codebooks_of_another_model_are_refused(self):
        self.expect(1, "codebooks were trained for model", "generate", "-m", TINY,
                    "--prompt-tokens", "1,2,3", "--codebooks", self.codebooks)

    def test_damaged_codebooks_are_refused(self):
        damaged = bytearray(pathlib.Path(self.codebooks).read_bytes())
        damaged[len(damaged) // 2] ^= 1
        file = self.path("damaged.pqcb")
        pathlib.Path(file).write_bytes(damaged)
        self.expect(1, "checksum", "generate", "-m", MODEL, "-p", "x", "--codebooks", file)
        self.expect(1, "layer", "inspect", file)
        self.expect(0, "16x4", "inspect", self.codebooks)

    def test_prompt_tokens_need_no_tokenizer(self):
        done = self.expect(0, "", "generate", "-m", TINY, "--prompt-tokens", "1,2,3", "-n", "4",
                           "--policy", "exact", "--json")
        self.assertEqual(json.loads(done.stdout)["new_tokens"], 4)

    def test_weights_that_are_not_finite_are_refused(self):
        model = self.path("nan_model")
        shutil.copytree(TINY, model)
        weights = pathlib.Path(model) / "model.safetensors"
        os.chmod(weights, 0o644)
        data = bytearray(weights.read_bytes())
        data[-4:] = struct.pack("<f", float("nan"))
        weights.write_bytes(data)
        self.expect(1, "NaN or infinite", "generate", "-m", model, "--prompt-tokens", "1,2",
                    "--policy", "exact")

    def test_underscores_in_flags(self):
        self.expect(2, "local-window is 0", "generate", "-m", MODEL, "-p", "x", "--policy", "exact",
                    "--local_window=0")

    def test_closed_stdout_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PROGRAM, "tokenize", "-m", MODEL, "-p", "x"], stdout=full,
                                  stderr=subprocess.PIPE, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)

    def test_check_compares_with_exact_attention(self):
        text = self.path("text.txt")
        pathlib.Path(text).write_text("The sea was calm and the ship lay still. " * 200,
                                      encoding="utf-8")
        done = self.expect(0, "pass", "check", "-m", MODEL, "--codebooks", self.codebooks, "-f",
                           text, "--ctx", "1200", "--last", "16", "--attn-ratio", "1",
                           "--dtype", "float32", "--json")
        report = json.loads(done.stdout)
        self.assertTrue(report["pass"])
        self.assertEqual(report["failed"], [])
        self.assertEqual(report["top1_agreement"], 1)
        self.assertLess(report["kl"], 1e-6)
        self.assertLess(report["reference_deviation"], 1e-5)
        self.assertAlmostEqual(report["layers"][0]["recall"], 1)

    def test_check_passes_in_bfloat16_and_says_why_it_fails(self):
        text = self.path("text16.txt")
        pathlib.Path(text).write_text("The sea was calm and the ship lay still. " * 200,
                                      encoding="utf-8")
        common = ["check", "-m", MODEL, "--codebooks", self.codebooks, "-f", text, "--ctx", "900",
                  "--last", "8"]
        self.expect(0, "PASS", *common, "--policy", "exact", "--dtype", "bfloat16")
        self.expect(1, "FAIL: the share of equal top tokens", *common, "--policy", "exact",
                    "--min-agreement", "1.1")

    def test_what_is_certified_is_exact(self):
        text = self.path("text.txt")
        pathlib.Path(text).write_text("The sea was calm and the ship lay still. " * 200,
                                      encoding="utf-8")
        common = ["check", "-m", MODEL, "--codebooks", self.codebooks, "-f", text, "--ctx", "1200",
                  "--last", "9", "--attn-top-k", "20", "--min-agreement", "0", "--max-kl", "9",
                  "--json"]
        wide = json.loads(self.expect(0, "", *common, "--policy",
                                      "pq:certify,read=1000").stdout)["attention"]
        self.assertEqual([wide["certified"], wide["proven"], wide["disproved"]], [1, 1, 0])
        self.assertAlmostEqual(wide["recall"], 1)
        narrow = json.loads(self.expect(0, "", *common, "--policy",
                                        "pq:certify,rerank=2,read=2").stdout)["attention"]
        self.assertEqual(narrow["ranked"], 40)
        self.assertEqual(narrow["disproved"], 0)
        self.assertLess(narrow["certified"], 1)
        self.assertLessEqual(narrow["certified"], narrow["proven"])
        self.assertLessEqual(narrow["proven"], narrow["recall"])

    def test_numbers_that_would_overflow(self):
        huge = "9223372036854775807"
        for flag in ("--offset", "--windows", "--last"):
            self.expect(2, "expected at most", "eval", "-m", MODEL, "--task", "ppl", "-f", "x",
                        flag, huge)
        self.expect(2, "expected at most", "check", "-m", MODEL, "--last", huge)
        self.expect(2, "expected at most", "train", "-m", MODEL, "--tokens", huge, "-o", "x")
        self.expect(1, "expected 2 to the model's 16384", "train", "-m", MODEL, "--ctx", "1G",
                    "-o", self.path("x.pqcb"))
        self.expect(1, "expected at most the model's", "generate", "-m", MODEL, "-p", "x",
                    "--policy", "exact", "--n-sink", "1M")

    def test_train_refuses_before_the_work(self):
        self.expect(2, "cannot write into", "train", "-m", MODEL, "-o", "/no/such/folder/x")
        self.expect(2, "is a folder", "train", "-m", MODEL, "-o", self.dir.name)
        self.expect(2, "--trainer is 'nope'", "train", "-m", MODEL, "--trainer", "nope", "-o",
                    self.path("x.pqcb"))

    def test_codebooks_know_the_rotary_embedding(self):
        model = self.path("other_rope")
        shutil.copytree(MODEL, model)
        config = pathlib.Path(model) / "config.json"
        os.chmod(config, 0o644)
        config.write_text(config.read_text(encoding="utf-8").replace("1000000.0", "777.0"),
                          encoding="utf-8")
        self.expect(1, "codebooks were trained for model", "generate", "-m", model, "-p", "x",
                    "--codebooks", self.codebooks)

    def test_eval_shares_samples_between_policies(self):
        out = self.path("eval")
        done = self.expect(0, "results", "eval", "-m", MODEL, "--codebooks", self.codebooks,
                           "--task", "passkey,copy", "--ctx", "700", "--num-samples", "2",
                           "--policy", "exact", "--policy", "pq:codes_only", "--policy", "recent",
                           "--attn-ratio", "0.5", "--shadow", "4", "-o", out, "--json")
        rows = json.loads(done.stdout)["results"]
        self.assertEqual(len(rows), 6)
        self.assertTrue(all(row["samples"] == 2 for row in rows))
        judged = [row for row in rows if row["policy"] != "recent"]
        self.assertTrue(all(row["recall"] <= 1 and row["mass"] <= 1.000001 for row in judged))
        lines = (pathlib.Path(out) / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        self.assertEqual(len(lines), 12)

    def eval(self, *args, model=MODEL):
        done = self.expect(0, "results", "eval", "-m", model, *args, "--json")
        return json.loads(done.stdout)["results"]

    def write(self, name, text):
        path = self.path(name)
        pathlib.Path(path).write_text(text, encoding="utf-8")
        return path

    def test_eval_runs_every_policy_at_every_budget(self):
        policies = ["exact", "flat", "pq", "quest", "infllm", "blocks", "magicpig", "streaming",
                    "recent", "h2o", "snapkv"]
        flags = [flag for policy in policies for flag in ("--policy", policy)]
        out = self.path("policies")
        args = ["--codebooks", self.codebooks, "--task", "needle", "--ctx", "900",
                "--num-samples", "2", "--budgets", "0.1,0.3", "--local-window", "32", "-o", out,
                *flags]
        rows = self.eval(*args)
        # The budget does not matter to two of them.
        self.assertEqual(len(rows), 2 * len(policies) - 2)
        by_key = {(row["policy"], row["budget"]): row for row in rows}
        self.assertEqual(by_key["exact", None]["score"], 1)
        self.assertAlmostEqual(by_key["exact", None]["selected_ratio"], 1)
        self.assertEqual(by_key["flat", 0.3]["score"], 1)
        for (policy, budget), row in by_key.items():
            if policy in ("streaming", "recent", "h2o"):
                self.assertLess(row["kv_bytes_resident"], by_key["exact", None]["kv_bytes_resident"])
                self.assertAlmostEqual(row["selected_ratio"], budget + 48 / 900, delta=0.02)
        # All is there already: the same flags give the same rows at once.
        done = run("eval", "-m", MODEL, *args, "--json")
        self.assertIn(b"going on behind", done.stderr)
        self.assertEqual(json.loads(done.stdout)["results"], rows)
        self.expect(1, "its seed is 0, of this one 5", "eval", "-m", MODEL, *args, "--seed", "5")
        self.expect(1, 'its on_misfit is "warn", of this one "widen"', "eval", "-m", MODEL, *args,
                    "--on-misfit", "widen")
        # A file that holds something else now makes it another run, too.
        text = self.write("windows.txt", "One two three four five six seven. " * 40)
        windows = ["--task", "ppl", "-f", text, "--ctx", "100", "--last", "20", "--policy", "exact",
                   "-o", self.path("windows")]
        self.assertGreater(self.eval(*windows)[0]["ppl"], 1)
        self.write("windows.txt", "Seven six five four three two one. " * 40)
        self.expect(1, "its contents is", "eval", "-m", MODEL, *windows)
        # A report of it has its numbers.
        page = self.path("page.html")
        self.expect(0, "page.html", "report", out, "-o", page)
        html = pathlib.Path(page).read_text(encoding="utf-8")
        self.assertIn("Where answers are found", html)
        self.assertLess(len(html), 1 << 20)
        for row in rows:
            self.assertIn(row["policy"], html)

    def test_a_second_question_needs_what_the_first_one_did_not(self):
        rows = self.eval("--codebooks", self.codebooks, "--task", "needle", "--ctx", "900",
                         "--num-samples", "3", "--turns", "2", "--query-aware",
                         "--attn-ratio", "0.08", "--local-window", "16", "--policy", "flat",
                         "--policy", "snapkv:kernel=15,pool=max")
        turns = {row["policy"]: row["score_by_turn"] for row in rows}
        self.assertEqual(turns["flat"], [1, 1])
        self.assertGreater(turns["snapkv:kernel=15,pool=max"][0],
                           turns["snapkv:kernel=15,pool=max"][1])

    def test_a_second_question_follows_the_whole_answer(self):
        out = self.path("turns")
        self.eval("--task", "needle", "--ctx", "600", "--num-samples", "1", "--turns", "2",
                  "--policy", "exact", "-o", out)
        line = json.loads((pathlib.Path(out) / "predictions.jsonl").read_text())
        # A mean over the steps: two questions, the timed tokens, and the last one of the first
        # answer, without which nothing would come out whole.
        steps = 2 + len(line["gaps_ms"]) + 1
        total = line["context"] * steps
        self.assertAlmostEqual(total, round(total), places=6)

    def test_eval_reads_the_files_of_the_field(self):
        ruler = self.write("ruler.jsonl", json.dumps(
            {"index": 0, "input": "The pass key is 71432. Remember it. 71432 is the pass key.\n"
             "What is the pass key? The pass key is", "outputs": ["71432"], "length": 60}) + "\n")
        longbench = self.write("longbench.jsonl", json.dumps(
            {"input": "Who came?", "context": "Ann came.", "answers": ["Ann"], "length": 2,
             "dataset": "qasper", "language": "en", "all_classes": None, "_id": "1"}) + "\n")
        infinite = self.write("infinite.jsonl", json.dumps(
            {"id": 0, "context": "The pass key is 71432. Remember it. 71432 is the pass key.",
             "input": "What is the pass key?", "answer": "71432"}) + "\n")
        # The first answer ends at its first character, the second after a token.
        xsum = self.write("xsum.jsonl", "".join(json.dumps(
            {"request": {"prompt": "Article: It rained.\nSummary:", "temperature": 0.0, "top_p": 1,
                         **request}, "reference": "Rain."}) + "\n" for request in (
                {"max_tokens": 8, "stop": [chr(c) for c in range(10, 127)]}, {"max_tokens": 1})))
        choice = self.write("choice.jsonl", json.dumps(
            {"question": "Is it?", "choices": ["yes", "no"], "answer": "B"}) + "\n")
        out = self.path("files")
        for task, path, metric in (
                ("ruler:max_tokens=8", ruler, "match_all"),
                ("longbench:max_tokens=8", longbench, "qa_f1"),
                ("infinitebench:task=passkey,max_tokens=8", infinite, "first_number"),
                ("summarization", xsum, "rouge_l"), ("multiple_choice", choice, "prefix")):
            rows = self.eval("--task", task, "--data-file", path, "--ctx", "400", "--policy",
                             "exact", "--policy", "h2o", "-o", out, "--overwrite")
            self.assertEqual([row["policy"] for row in rows], ["exact", "h2o"])
            for row in rows:
                self.assertIn(metric, row["metrics"])
                self.assertEqual(row["score"], row["metrics"][metric])
            if task.startswith(("ruler", "infinite")):
                self.assertEqual(rows[0]["score"], 1)
            if task == "summarization":
                requests = [json.loads(line) for line in pathlib.Path(xsum).read_text().splitlines()]
                path = pathlib.Path(out) / "helm/summarization-400-h2o-0.02.jsonl"
                lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
                for line, request in zip(lines, requests, strict=True):
                    # As HELM compares them: to the letter.
                    self.assertEqual(*(json.dumps(x["request"], sort_keys=True)
                                       for x in (line, request)))
                choices = [line["result"]["choices"][0] for line in lines]
                self.assertEqual([c["finish_reason"] for c in choices], ["stop", "length"])
                self.assertEqual(choices[0]["text"], "")
        self.assertFalse((pathlib.Path(out) / "helm").exists())  # of the run before the last
        # Other examples before the questions are another run.
        shots = self.write("shots.txt", "Question: Was it?\nA. yes\nB. no\nAnswer: B\n\n")
        asked = ["--task", f"multiple_choice:shots={shots}", "--data-file", choice, "--ctx", "400",
                 "--policy", "exact", "-o", self.path("shots")]
        self.eval(*asked)
        self.write("shots.txt", "Question: Was it?\nA. yes\nB. no\nAnswer: A\n\n")
        self.expect(1, "its contents is", "eval", "-m", MODEL, *asked)
        # What cannot run leaves no folder behind, and another run's as it was.
        self.expect(1, "expected 2 to the model's", "eval", "-m", MODEL, "--task", "needle", "--ctx",
                    "90k", "--policy", "exact", "-o", self.path("too_long"))
        self.assertFalse(pathlib.Path(self.path("too_long")).exists())
        before = (pathlib.Path(out) / "metrics.json").read_bytes()
        self.expect(1, "xsum.jsonl, line 1", "eval", "-m", MODEL, "--task", "ruler", "--data-file",
                    xsum, "--policy", "exact", "-o", out, "--overwrite")
        self.assertEqual((pathlib.Path(out) / "metrics.json").read_bytes(), before)
        self.expect(2, "shots", "eval", "-m", MODEL, "--task", "ruler:shots=x", "--data-file", ruler)
        self.expect(2, "needs --data-file", "eval", "-m", MODEL, "--task", "ruler")
        self.expect(1, "infinite.jsonl, line 1", "eval", "-m", MODEL, "--task", "ruler",
                    "--data-file", infinite, "--policy", "exact")

    def test_the_table_of_a_streaming_model(self):
        # A GPT-NeoX checkpoint with bytes for tokens.
        model = self.path("neox")
        shutil.copytree(SOURCE / "tests/fixtures/hf/gpt_neox_parallel", model)
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [b for b in range(256) if b not in plain]
        letters = {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}
        self.write("neox/tokenizer.json", json.dumps(
            {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
             "decoder": {"type": "ByteLevel"},
             "model": {"type": "BPE", "vocab": letters, "merges": []}}))
        text = self.write("neox.txt", "The stream goes on and on. " * 60)
        rows = self.eval("--task", "ppl", "-f", text, "--ctx", "500", "--last", "100",
                         "--step-exact", "--policy", "exact",
                         "--policy", "streaming:ratio=0.3,n_sink=4", model=model)
        exact, streaming = rows
        for row in rows:
            for key in ("ppl", "ttft_ms", "tpot_ms", "tokens_per_second", "kv_bytes_resident",
                        "flops_per_token"):
                self.assertGreater(row[key], 0)
        self.assertNotEqual(exact["ppl"], streaming["ppl"])
        # 120 of 400 tokens of the prompt, of 450 in the mean of the steps.
        self.assertAlmostEqual(streaming["selected_ratio"], 120 / 450, delta=0.01)
        self.assertLess(streaming["kv_bytes_resident"], 0.5 * exact["kv_bytes_resident"])
        self.assertLess(streaming["flops_per_token"], exact["flops_per_token"])
        # Beyond the model's 512 positions, and only so.
        beyond = ["--task", "ppl", "-f", text, "--ctx", "1500"]
        rows = self.eval(*beyond, "--policy", "streaming:tokens=64", model=model)
        self.assertGreater(rows[0]["ppl"], 1)
        self.expect(1, "expected 2 to the model's 512", "eval", "-m", model, *beyond,
                    "--policy", "streaming:tokens=64", "--policy", "exact")
        self.expect(2, "needs --last", "eval", "-m", model, *beyond, "--policy", "streaming")
        long = ",".join(str(t % 256) for t in range(700))
        done = self.expect(0, "tokens", "generate", "-m", model, "--prompt-tokens", long, "-n", "5",
                           "--ignore-eos", "--policy", "streaming:tokens=64", "--json")
        self.assertEqual(json.loads(done.stdout)["prompt_tokens"], 700)

    def test_policies_say_what_they_cannot_do(self):
        self.expect(2, "drops tokens, and --shadow", "generate", "-m", MODEL, "-p", "x",
                    "--policy", "h2o", "--shadow", "1")
        self.expect(2, "drops tokens, and its steps cannot be judged", "check", "-m", MODEL,
                    "--policy", "snapkv")
        self.expect(2, "has to see the prompt run", "generate", "-m", MODEL, "-p", "x", "--policy",
                    "infllm", "--context", "c", "--store", f"rocksdb:path={self.path('none')}")
        self.expect(2, "--tail estimate needs a policy with scores", "generate", "-m", MODEL, "-p",
                    "x", "--policy", "quest", "--tail", "estimate")
        self.expect(2, "quest:page is 0, expected 1 to", "generate", "-m", MODEL, "-p", "x",
                    "--policy", "quest:page=0")

    def test_bench_store(self):
        done = self.expect(0, "", "bench", "store", "-m", MODEL, "--codebooks", self.codebooks,
                           "--folder", self.dir.name, "--ctx", "3000", "--layers", "2",
                           "--rounds", "2", "--json")
        bench = json.loads(done.stdout)
        self.assertGreater(bench["machine"]["copy_gb_per_second"], 0)
        rows = {(row["name"], row["store"], row.get("threads")): row for row in bench["rows"]}
        self.assertGreater(rows["write", "rocksdb", 1]["ratio_to_files"], 0)
        self.assertGreater(rows["read_scattered", "rocksdb", 1]["mb_per_second"], 0)
        self.assertGreater(rows["read_ordered", "rocksdb", 1]["share_of_byte_limit"], 0)
        self.assertGreater(rows["read_one", "rocksdb", None]["p99_us"], 0)
        decode = [row for row in bench["rows"] if row["name"] == "decode"]
        self.assertEqual([row["store"] for row in decode], ["memory", "1/4 memory + rocksdb"])
        self.assertEqual(list(pathlib.Path(self.dir.name).glob("pqcache-bench-*")), [])
        self.expect(2, "unknown command 'bench speed', expected one of: attention, model, "
                    "store, train", "bench", "speed")
        self.expect(2, "bench has no verb, expected one of: attention, model, store, train",
                    "bench")
        self.expect(2, "--page-tokens is 0, expected 1 to 4096", "bench", "store",
                    "--page-tokens", "0")
        self.expect(2, "expected --model and --codebooks together", "bench", "store", "-m", MODEL)
        self.expect(1, "cannot make a folder in it", "bench", "store", "--folder",
                    self.path("nowhere"))

    def test_stored_contexts(self):
        store = "memory:limit=3M+rocksdb:path=" + self.path("contexts")
        text = self.path("context.txt")
        with open(text, "w", encoding="utf-8") as out:
            out.write("The grass is green. The sky is blue. Here we go. " * 60)
        common = ["--codebooks", self.codebooks, "--local-window", "64", "--store"]
        save = ["context", "save", "-m", MODEL, *common, store, "-f", text, "--json"]
        self.expect(2, "context name is 'a/b'", *save, "a/b")
        saved = json.loads(self.expect(0, "tokens", *save, "doc").stdout)
        self.assertEqual(saved["cached_tokens"], 0)
        self.expect(1, "there is a stored context 'doc' already", *save, "doc")
        again = json.loads(self.expect(0, "tokens", *save, "copy").stdout)
        self.assertEqual(again["cached_tokens"], saved["tokens"])

        ask = ["-p", " The sun is", "--context", "doc", *common]
        exact_ask = ["-p", " The sun is", "--context", "doc", "--policy", "exact",
                     "--local-window", "64", "--store"]
        answer = self.generate(*ask, store)
        self.assertEqual(answer["cached_tokens"], saved["tokens"])
        self.assertLessEqual(answer["kv_bytes_resident_peak"], 3 << 20)
        self.assertEqual(self.generate(*ask, store.replace("3M", "64M"))["tokens"],
                         answer["tokens"])
        # Bounds are of keys, which lie in the pages.
        proofs = self.generate(*ask, store, "--policy", "pq:certify,read=1000", "--attn-top-k",
                               "8", "--shadow", "1")["attention"]
        self.assertEqual([proofs["certified"], proofs["disproved"]], [1, 0])
        self.expect(1, "no stored context 'nope', there are: copy, doc", "generate", "-m", MODEL,
                    "-p", "x", "--context", "nope", *common, store)
        self.expect(1, "no stored context 'doc'", "generate", "-m", MODEL, "-p", "x", "--context",
                    "doc", "--cache-salt", "another tenant", *common, store)
        self.expect(1, "page_tokens is 32 here, expected 16, as it was stored", "generate", "-m", MODEL, "-p", "x",
                    "--context", "doc", "--page-tokens", "32", *common, store)

        self.expect(0, "0 damaged", "context", "verify", "--store", store)
        self.damage_tables(self.path("contexts"))
        self.expect(1, "damaged", "context", "verify", "doc", "--store", store)
        self.expect(1, "orruption", "generate", "-m", MODEL, *ask, store, "--on-missing", "fail")
        exact = run("generate", "-m", MODEL, "-n", "12", *exact_ask, store)
        self.assertEqual(exact.returncode, 0, exact.stderr)
        self.assertIn(b"could not be mended: its codes are of codebooks", exact.stderr)
        mended = self.generate(*ask, store, "--on-missing", "recompute")
        self.assertEqual(mended["tokens"], answer["tokens"])
        self.assertGreaterEqual(mended["recomputations"], 1)
        self.assertGreaterEqual(mended["damaged_pages"], 1)
        self.expect(0, "0 damaged", "context", "verify", "doc", "--store", store)
        self.damage_tables(self.path("contexts"))
        done = self.expect(0, "was mended", "generate", "-m", MODEL, "-n", "12", *exact_ask, store,
                           "--codebooks", self.codebooks)
        self.expect(0, "0 damaged", "context", "verify", "doc", "--store", store)
        self.assertEqual(self.generate(*ask, store)["tokens"], answer["tokens"])
        self.expect(0, "removed", "context", "rm", "doc", "--store", store)
        self.expect(0, "removed", "context", "rm", "copy", "--store", store)
        self.expect(0, "no stored contexts", "context", "list", "--store", store)
        listing = self.expect(0, "contexts", "context", "list", "--store", store, "--json")
        self.assertEqual(json.loads(listing.stdout)["contexts"], [])

    def test_stored_contexts_need_a_store_that_is_there(self):
        nowhere = "rocksdb:path=" + self.path("nowhere")
        for verb in (["list"], ["show", "x"], ["verify"], ["rm", "x"]):
            self.expect(1, "expected a page store that is there already", "context", *verb,
                        "--store", nowhere)
            self.expect(2, "--store is absent", "context", *verb)
            self.expect(2, "'memory' ends with the process", "context", *verb, "--store", "memory")
        self.expect(1, "expected a page store that is there already", "generate", "-m", MODEL,
                    "-p", "x", "--context", "x", "--policy", "exact", "--store", nowhere)
        self.expect(2, "'memory' ends with the process", "generate", "-m", MODEL, "-p", "x",
                    "--context", "x", "--policy", "exact")
        self.expect(2, "'memory' ends with the process", "context", "save", "x", "-m", MODEL,
                    "-p", "x")
        self.assertFalse(pathlib.Path(self.path("nowhere")).exists())
        self.expect(2, "--context: context name is ''", "generate", "-m", MODEL, "-p", "x",
                    "--context", "")
        self.expect(2, "context has no verb, expected one of: save, list", "context")
        self.expect(2, "unknown command 'context see'", "context", "see")
        self.expect(2, "found 0 names, expected one", "context", "show", "--store", nowhere)

    def test_a_context_longer_than_the_model_is_refused_before_the_work(self):
        long = self.path("long_context.txt")
        pathlib.Path(long).write_text("word " * 20000, encoding="utf-8")
        self.expect(1, "expected 1 to 16383, which leaves one", "context", "save", "x", "-m", MODEL,
                    "-f", long, "--store", "rocksdb:path=" + self.path("long_store"))

    def test_what_a_damaged_store_still_holds_is_copied(self):
        folder = pathlib.Path(self.path("lost_file"))
        store, rescued = "rocksdb:path=" + str(folder), self.path("rescued")
        for name in ("one", "two"):
            done = self.expect(0, name, "context", "save", name, "-m", MODEL, "-p",
                               f"{name} sky is blue. " * 100, "--store", store)
            self.assertIn(b"kept without codes", done.stderr)
        self.expect(0, "no codes", "context", "list", "--store", store)
        repair = ["context", "repair", "--store", store, "--into", rescued]
        (folder / "CURRENT").unlink()
        largest = max(folder.glob("*.sst"), key=lambda file: file.stat().st_size)
        data = largest.read_bytes()
        largest.write_bytes(data[:len(data) // 2])
        self.expect(1, "'pqcache context repair --store", "context", "list", "--store", store)
        self.expect(1, "of " + largest.name, *repair)  # it may have held records
        self.expect(1, "is a page store already", *repair)
        new = "rocksdb:path=" + rescued
        done = self.expect(1, "missing", "context", "verify", "--store", new, "--json")
        whole = [c["name"] for c in json.loads(done.stdout)["contexts"] if c["missing"] == 0]
        broken = {"one": "two", "two": "one"}[whole[0]]
        self.expect(0, "was mended", "generate", "-m", MODEL, "-p", " The", "-n", "2", "--policy",
                    "exact", "--context", broken, "--store", new)
        self.expect(0, "0 missing", "context", "verify", "--store", new)
        self.expect(2, "--into is absent", "context", "repair", "--store", store)

    def test_every_instruction_set_gives_the_same_answer(self):
        self.expect(2, "PQCACHE_FORCE_ISA is 'mmx', expected one that this CPU has: scalar",
                    "doctor", env={**os.environ, "PQCACHE_FORCE_ISA": "mmx"})
        # So many tokens that the best are found by the scans of quantised codes.
        ask = ["-p", "The grass is green. " * 1200, "--codebooks", self.codebooks]
        default = self.generate(*ask)
        self.assertGreater(default["prompt_tokens"], 4500)
        for isa in ["scalar", "avx2", "avx512"]:
            done = run("generate", "-m", MODEL, "-n", "12", "--json", *ask,
                       env={**os.environ, "PQCACHE_FORCE_ISA": isa})
            if b"expected one that this CPU has" in done.stderr:
                print("this CPU has no", isa)
                continue
            self.assertEqual(json.loads(done.stdout)["tokens"], default["tokens"], isa)

    def test_bench_attention(self):
        done = self.expect(0, "", "bench", "attention", "--ctx", "1500,1k", "--heads", "4",
                           "--kv-heads", "2", "--dim", "64", "--pq", "16x4", "--rounds", "2",
                           "--json")
        bench = json.loads(done.stdout)
        self.assertGreater(bench["machine"]["sequential_gb_per_second"], 0)
        rows = bench["rows"]
        steps = ["exact", "pq shared", "pq per head", "pq shared top-k"]
        others = ["libtorch matmul f32", "encode + tables", "select: pqcache", "select: FAISS IndexPQ",
                  "select: FAISS FastScan"]
        self.assertEqual([row["name"] for row in rows], 2 * (steps + others))
        self.assertTrue(all(row["ms"] > 0 for row in rows))
        self.assertTrue(all(row["share_of_byte_limit"] > 0 and row["bytes"] > 0
                            for row in rows if row["name"] in steps))
        # Of 8 bits there is no FastScan.
        done = self.expect(0, "", "bench", "attention", "--ctx", "1k", "--heads", "4",
                           "--kv-heads", "2", "--dim", "64", "--rounds", "1", "--json")
        self.assertEqual(json.loads(done.stdout)["rows"][-1]["name"], "select: FAISS IndexPQ")
        self.expect(2, "--batch is 2, expected 1 without --device cuda", "bench", "attention",
                    "--batch", "2")
        self.expect(2, "--device is 'tpu', expected cpu or cuda", "bench", "attention",
                    "--device", "tpu")
        self.expect(2, "--heads is 3, expected a multiple of --kv-heads, 2", "bench", "attention",
                    "--heads", "3", "--kv-heads", "2")

    def test_bench_train(self):
        done = self.expect(0, "", "bench", "train", "--heads", "3", "--sample", "2", "--keys", "600",
                           "--dim", "16", "--pq", "4x4", "--iterations", "5", "--json")
        own, faiss = json.loads(done.stdout)["rows"]
        self.assertEqual((own["name"], own["heads"], faiss["heads"]), ("own", 3, 2))
        self.assertLess(own["error_over_faiss"], 1.1)
        self.expect(2, "--sample is 9, expected 1 to 3", "bench", "train", "--heads", "3",
                    "--sample", "9")
        self.expect(1, "expected at least one for each of 256 centroids", "bench", "train",
                    "--keys", "100")

    def test_bench_model(self):
        bench = ["bench", "model", "-m", MODEL, "--codebooks", self.codebooks]
        rows = json.loads(self.expect(0, "", *bench, "--ctx", "700", "--rounds", "1",
                                      "--json").stdout)["rows"]
        self.assertEqual([row.get("policy") for row in rows], [None, "exact", "pq"])
        self.assertGreater(rows[0]["ratio_to_products"], 0)
        self.assertTrue(all(0 < row["attention_ms"] < row["ms"] for row in rows))
        self.expect(2, "--codebooks is missing", "bench", "model", "-m", MODEL)
        self.expect(1, "positions, expected at most the model's", *bench, "--ctx", "16M")

    def test_training_replaces_no_file(self):
        before = pathlib.Path(self.codebooks).read_bytes()
        self.expect(2, "is there already", "train", "-m", MODEL, "-o", self.codebooks)
        self.assertEqual(pathlib.Path(self.codebooks).read_bytes(), before)

    def damage_tables(self, folder):
        """Flips bits all over the rows of every table: the token ids, without which nothing can be
        computed again, lie behind them, the index at the end."""
        tables = list(pathlib.Path(folder).glob("*.sst"))
        largest = max(table.stat().st_size for table in tables)
        for table in tables:
            data = bytearray(table.read_bytes())
            if len(data) < largest / 2:
                continue
            for offset in range(len(data) * 3 // 10, len(data) * 4 // 5, 20000):
                data[offset] ^= 1
            table.write_bytes(data)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], verbosity=1)
