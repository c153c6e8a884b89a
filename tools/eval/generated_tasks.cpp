#include "tools/eval/generated_tasks.h"

#include <algorithm>
#include <cmath>

#include "tools/model_flags.h"

namespace pqcache::tools {
namespace {

using Tokens = std::vector<int64_t>;

std::string Digits(Random* random, int count) {
  std::string digits;
  for (int i = 0; i < count; ++i) digits.push_back(static_cast<char>('0' + random->Below(10)));
  return digits;
}

// A version-4 UUID, RFC 4122.
std::string Uuid(Random* random) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string uuid;
  for (int i = 0; i < 32; ++i) {
    if (i == 8 || i == 12 || i == 16 || i == 20) uuid.push_back('-');
    const uint64_t digit = i == 12 ? 4 : i == 16 ? 8 + random->Below(4) : random->Below(16);
    uuid.push_back(kHex[digit]);
  }
  return uuid;
}

// A question that is answered right by the first characters of `answer`.
Result<EvalQuestion> Question(const TaskRequest& r, const std::string& question,
                              const std::string& answer) {
  EvalQuestion q;
  PQCACHE_ASSIGN_OR_RETURN(q.tokens, r.tokenizer->Encode(question, false));
  PQCACHE_ASSIGN_OR_RETURN(const Tokens tokens, r.tokenizer->Encode(answer, false));
  PQCACHE_ASSIGN_OR_RETURN(const MetricEntry* prefix, FindMetric("prefix"));
  q.references.answers = {answer};
  q.metrics = {prefix};
  // Two tokens more than the reference needs: a model may split the answer differently.
  q.max_tokens = static_cast<int64_t>(tokens.size()) + 2;
  q.max_bytes = answer.size();
  return q;
}

// Tokens that are left for filler, or an error that says how many there are too few.
Result<int64_t> RoomFor(const TaskRequest& r, const EvalSample& sample, size_t fact_tokens) {
  int64_t room = r.ctx - static_cast<int64_t>(fact_tokens);
  for (const EvalQuestion& q : sample.questions) {
    room -= static_cast<int64_t>(q.tokens.size()) + q.max_tokens - 2;
  }
  if (room < 0) {
    return Status::InvalidArgument("--ctx is " + std::to_string(r.ctx) + ", the task needs " +
                                   std::to_string(r.ctx - room) + " tokens without any filler");
  }
  return room;
}

// Where fact number `turn` stands.
double DepthOf(const TaskRequest& r, int turn) {
  const double depth = r.depth + static_cast<double>(turn) / r.turns;
  return depth > 1 ? depth - 1 : depth;
}

struct Fact {
  std::string text;
  double depth = 0;
};

// Facts at their depths inside filler from a random place of the haystack.
Status HideFacts(const TaskRequest& r, std::vector<Fact> facts, EvalSample* sample) {
  std::sort(facts.begin(), facts.end(),
            [](const Fact& a, const Fact& b) { return a.depth < b.depth; });
  std::vector<Tokens> hidden;
  size_t fact_tokens = 0;
  for (const Fact& fact : facts) {
    PQCACHE_ASSIGN_OR_RETURN(Tokens tokens, r.tokenizer->Encode(fact.text, false));
    fact_tokens += tokens.size();
    hidden.push_back(std::move(tokens));
  }
  PQCACHE_ASSIGN_OR_RETURN(const int64_t room, RoomFor(r, *sample, fact_tokens));
  const auto filler = static_cast<size_t>(room);
  const size_t offset = r.random->Below(r.haystack.size() - filler + 1);
  const auto text = r.haystack.subspan(offset, filler);
  size_t used = 0;
  for (size_t i = 0; i < facts.size(); ++i) {
    const auto end = static_cast<size_t>(facts[i].depth * static_cast<double>(filler));
    sample->context.insert(sample->context.end(), text.begin() + static_cast<std::ptrdiff_t>(used),
                           text.begin() + static_cast<std::ptrdiff_t>(end));
    sample->context.insert(sample->context.end(), hidden[i].begin(), hidden[i].end());
    used = end;
  }
  sample->context.insert(sample->context.end(), text.begin() + static_cast<std::ptrdiff_t>(used),
                         text.end());
  sample->depth = r.depth;
  return Status::Ok();
}

Result<EvalSample> Passkey(const TaskRequest& r) {
  if (r.turns > 1) {
    return Status::InvalidArgument("the passkey task has one question, and --turns is " +
                                   std::to_string(r.turns));
  }
  const std::string key = Digits(r.random, 5);
  EvalSample sample;
  PQCACHE_ASSIGN_OR_RETURN(sample.questions.emplace_back(),
                           Question(r, "\nWhat is the pass key? The pass key is", " " + key));
  PQCACHE_RETURN_IF_ERROR(HideFacts(
      r, {{"\nThe pass key is " + key + ". Remember it. " + key + " is the pass key.\n", r.depth}},
      &sample));
  return sample;
}

Result<EvalSample> Needle(const TaskRequest& r) {
  static constexpr std::string_view kWords[] = {"harbor",  "lantern", "violet", "granite",
                                                "orchard", "whisper", "meadow", "copper"};
  if (r.turns > static_cast<int>(std::size(kWords))) {
    return Status::InvalidArgument("the needle task has at most " +
                                   std::to_string(std::size(kWords)) + " questions, --turns is " +
                                   std::to_string(r.turns));
  }
  EvalSample sample;
  std::vector<Fact> facts;
  const uint64_t first = r.random->Below(std::size(kWords));
  for (int turn = 0; turn < r.turns; ++turn) {
    std::string key(kWords[(first + static_cast<uint64_t>(turn)) % std::size(kWords)]);
    if (r.random->Below(2) == 1) {
      key += "-" + std::string(kWords[r.random->Below(std::size(kWords))]);
    }
    const std::string number = Digits(r.random, 7);
    const std::string subject =
        "special magic number for " + key + " mentioned in the provided text";
    PQCACHE_ASSIGN_OR_RETURN(
        sample.questions.emplace_back(),
        Question(r, "\nWhat is the " + subject + "? The " + subject + " is", " " + number));
    facts.push_back({"\nOne of the special magic numbers for " + key + " is: " + number + ".\n",
                     DepthOf(r, turn)});
  }
  PQCACHE_RETURN_IF_ERROR(HideFacts(r, std::move(facts), &sample));
  return sample;
}

Result<EvalSample> KvRetrieval(const TaskRequest& r) {
  const std::string opening =
      "Extract the value corresponding to the specified key in the JSON object below.\n\n{";
  const auto pair = [](const std::string& key, const std::string& value) {
    return "\"" + key + "\": \"" + value + "\"";
  };
  EvalSample sample;
  std::vector<std::string> pairs;
  for (int turn = 0; turn < r.turns; ++turn) {
    const std::string asked = Uuid(r.random), answer = Uuid(r.random);
    PQCACHE_ASSIGN_OR_RETURN(
        sample.questions.emplace_back(),
        Question(r, "\nKey: \"" + asked + "\"\nThe value associated with the specified key is:",
                 " \"" + answer));
    pairs.push_back(pair(asked, answer));
  }
  PQCACHE_ASSIGN_OR_RETURN(const Tokens frame, r.tokenizer->Encode(opening + "}\n", false));
  PQCACHE_ASSIGN_OR_RETURN(int64_t room, RoomFor(r, sample, frame.size()));
  for (size_t i = 0;; ++i) {
    if (i == pairs.size()) pairs.push_back(pair(Uuid(r.random), Uuid(r.random)));
    PQCACHE_ASSIGN_OR_RETURN(const Tokens last, r.tokenizer->Encode(pairs[i] + ", ", false));
    room -= static_cast<int64_t>(last.size());
    if (room >= 0) continue;
    if (i < static_cast<size_t>(r.turns)) {
      return Status::InvalidArgument("--ctx is " + std::to_string(r.ctx) + ", the task needs " +
                                     std::to_string(r.ctx - room) + " tokens for pair " +
                                     std::to_string(i + 1));
    }
    pairs.resize(i);
    break;
  }
  for (int turn = r.turns; turn-- > 0;) {
    const auto place = static_cast<size_t>(DepthOf(r, turn) * static_cast<double>(pairs.size()));
    const auto asked = static_cast<size_t>(turn);
    std::swap(pairs[asked], pairs[std::max(asked, std::min(place, pairs.size() - 1))]);
  }
  std::string text = opening;
  for (size_t i = 0; i < pairs.size(); ++i) text += (i > 0 ? ", " : "") + pairs[i];
  PQCACHE_ASSIGN_OR_RETURN(sample.context, r.tokenizer->Encode(text + "}\n", false));
  sample.depth = r.depth;
  return sample;
}

// The filler itself is the fact: its tokens from some depth on are begun again and must be
// continued.
Result<EvalSample> Copy(const TaskRequest& r) {
  constexpr int64_t kPrompted = 32, kAnswered = 16;
  const int64_t asked = r.turns * (kPrompted + kAnswered);
  if (r.ctx < 2 * asked) {
    return Status::InvalidArgument("--ctx is " + std::to_string(r.ctx) + ", the copy task needs " +
                                   std::to_string(2 * asked));
  }
  const int64_t filler = r.ctx - asked;
  const size_t offset = r.random->Below(r.haystack.size() - static_cast<size_t>(filler) + 1);
  const auto text = r.haystack.subspan(offset, static_cast<size_t>(filler));
  EvalSample sample;
  sample.context.assign(text.begin(), text.end());
  sample.depth = r.depth;
  for (int turn = 0; turn < r.turns; ++turn) {
    const auto start = static_cast<std::ptrdiff_t>(
        DepthOf(r, turn) * static_cast<double>(filler - kPrompted - kAnswered));
    const Tokens answer(text.begin() + start + kPrompted,
                        text.begin() + start + kPrompted + kAnswered);
    PQCACHE_ASSIGN_OR_RETURN(const std::string words, r.tokenizer->Decode(answer, false));
    PQCACHE_ASSIGN_OR_RETURN(EvalQuestion question, Question(r, "", words));
    question.tokens.assign(text.begin() + start, text.begin() + start + kPrompted);
    question.max_tokens = kAnswered + 2;
    sample.questions.push_back(std::move(question));
  }
  return sample;
}

constexpr TaskEntry kTasks[] = {
    {"passkey", "a five-digit key hidden in filler", Passkey},
    {"needle", "a seven-digit number for a named thing, hidden in filler", Needle},
    {"kv_retrieval", "the value of one key in a JSON object of UUIDs", KvRetrieval},
    {"copy", "continue a passage of the filler that is begun again", Copy},
};

}  // namespace

std::span<const TaskEntry> GeneratedTasks() { return kTasks; }

Result<const TaskEntry*> FindTask(std::string_view name) {
  std::string known;
  for (const TaskEntry& entry : kTasks) {
    if (entry.name == name) return &entry;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  return Status::InvalidArgument("unknown task '" + std::string(name) +
                                 "', expected one of: " + known);
}

Result<std::vector<int64_t>> LoadHaystack(const std::string& path, int64_t tokens,
                                          const attention::Tokenizer& tokenizer) {
  if (!path.empty()) {
    PQCACHE_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
    PQCACHE_ASSIGN_OR_RETURN(Tokens haystack, tokenizer.Encode(text, false));
    if (static_cast<int64_t>(haystack.size()) >= tokens) return haystack;
    return Status::InvalidArgument(path + " has " + std::to_string(haystack.size()) +
                                   " tokens, expected at least --ctx " + std::to_string(tokens));
  }
  PQCACHE_ASSIGN_OR_RETURN(
      const Tokens noise,
      tokenizer.Encode("The grass is green. The sky is blue. The sun is yellow. Here we go. There "
                       "and back again. ",
                       false));
  Tokens haystack;
  while (static_cast<int64_t>(haystack.size()) < tokens) {
    haystack.insert(haystack.end(), noise.begin(), noise.end());
  }
  return haystack;
}

}  // namespace pqcache::tools
