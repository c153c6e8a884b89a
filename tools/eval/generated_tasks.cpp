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

Status CheckOneQuestion(const TaskRequest& r, const std::string& task) {
  if (r.turns == 1) return Status::Ok();
  return Status::InvalidArgument("the " + task + " task has one question, and --turns is " +
                                 std::to_string(r.turns));
}

Result<EvalSample> Passkey(const TaskRequest& r) {
  PQCACHE_RETURN_IF_ERROR(CheckOneQuestion(r, "passkey"));
  const std::string key = Digits(r.random, 5);
  EvalSample sample;
  PQCACHE_ASSIGN_OR_RETURN(sample.questions.emplace_back(),
                           Question(r, "\nWhat is the pass key? The pass key is", " " + key));
  PQCACHE_RETURN_IF_ERROR(HideFacts(
      r, {{"\nThe pass key is " + key + ". Remember it. " + key + " is the pass key.\n", r.depth}},
      &sample));
  return sample;
}

constexpr std::string_view kWords[] = {"harbor",  "lantern", "violet", "granite",
                                       "orchard", "whisper", "meadow", "copper"};
constexpr uint64_t kNumWords = std::size(kWords);

std::string Name(std::initializer_list<uint64_t> words) {
  std::string name;
  for (const uint64_t word : words) name += (name.empty() ? "" : "-") + std::string(kWords[word]);
  return name;
}

std::string NeedleOf(const std::string& name, const std::string& number) {
  return "\nOne of the special magic numbers for " + name + " is: " + number + ".\n";
}

Result<EvalQuestion> AskFor(const TaskRequest& r, const std::string& name,
                            const std::string& number) {
  const std::string subject =
      "special magic number for " + name + " mentioned in the provided text";
  return Question(r, "\nWhat is the " + subject + "? The " + subject + " is", " " + number);
}

Result<EvalSample> Needle(const TaskRequest& r) {
  if (r.turns > static_cast<int>(kNumWords)) {
    return Status::InvalidArgument("the needle task has at most " + std::to_string(kNumWords) +
                                   " questions, --turns is " + std::to_string(r.turns));
  }
  EvalSample sample;
  std::vector<Fact> facts;
  const uint64_t first = r.random->Below(kNumWords);
  for (int turn = 0; turn < r.turns; ++turn) {
    const uint64_t word = (first + static_cast<uint64_t>(turn)) % kNumWords;
    const std::string name =
        r.random->Below(2) == 1 ? Name({word, r.random->Below(kNumWords)}) : Name({word});
    const std::string number = Digits(r.random, 7);
    PQCACHE_ASSIGN_OR_RETURN(sample.questions.emplace_back(), AskFor(r, name, number));
    facts.push_back({NeedleOf(name, number), DepthOf(r, turn)});
  }
  PQCACHE_RETURN_IF_ERROR(HideFacts(r, std::move(facts), &sample));
  return sample;
}

// Needles `others`, all over the context, and the one that is asked for.
Result<EvalSample> HideAmong(const TaskRequest& r, const std::string& asked,
                             const std::vector<std::string>& others) {
  EvalSample sample;
  const std::string number = Digits(r.random, 7);
  PQCACHE_ASSIGN_OR_RETURN(sample.questions.emplace_back(), AskFor(r, asked, number));
  std::vector<Fact> facts = {{NeedleOf(asked, number), r.depth}};
  for (size_t i = 0; i < others.size(); ++i) {
    const double depth = (static_cast<double>(i) + 0.5) / static_cast<double>(others.size());
    facts.push_back({NeedleOf(others[i], Digits(r.random, 7)), depth});
  }
  PQCACHE_RETURN_IF_ERROR(HideFacts(r, std::move(facts), &sample));
  return sample;
}

void Shuffle(std::vector<std::string>* names, Random* random) {
  for (size_t i = names->size(); i > 1; --i) std::swap((*names)[i - 1], (*names)[random->Below(i)]);
}

// Every other name of one or two words that shares a word with the one asked for.
Result<EvalSample> Lookalikes(const TaskRequest& r) {
  PQCACHE_RETURN_IF_ERROR(CheckOneQuestion(r, "lookalikes"));
  const uint64_t a = r.random->Below(kNumWords);
  const uint64_t b = (a + 1 + r.random->Below(kNumWords - 1)) % kNumWords;
  std::vector<std::string> others = {Name({a}), Name({b})};
  for (uint64_t i = 0; i < kNumWords; ++i) {
    for (uint64_t j = 0; j < kNumWords; ++j) {
      const bool shares = i == a || i == b || j == a || j == b;
      if (shares && !(i == a && j == b)) others.push_back(Name({i, j}));
    }
  }
  Shuffle(&others, r.random);
  return HideAmong(r, Name({a, b}), others);
}

// As many needles as the context holds, of names of three words.
Result<EvalSample> ManyNeedles(const TaskRequest& r) {
  PQCACHE_RETURN_IF_ERROR(CheckOneQuestion(r, "many_needles"));
  std::vector<std::string> names;
  for (uint64_t i = 0; i < kNumWords * kNumWords * kNumWords; ++i) {
    names.push_back(Name({i / kNumWords / kNumWords, i / kNumWords % kNumWords, i % kNumWords}));
  }
  Shuffle(&names, r.random);
  const std::string asked = names.back();
  names.pop_back();
  // Numbers differ in their tokens; a needle takes no more than this one and a few.
  constexpr size_t kSpare = 4;
  PQCACHE_ASSIGN_OR_RETURN(const Tokens needle,
                           r.tokenizer->Encode(NeedleOf(asked, "8888888"), false));
  PQCACHE_ASSIGN_OR_RETURN(const EvalQuestion question, AskFor(r, asked, "8888888"));
  const size_t room =
      static_cast<size_t>(r.ctx) - std::min(static_cast<size_t>(r.ctx), 2 * question.tokens.size());
  names.resize(std::min(names.size(), room / (needle.size() + kSpare)));
  return HideAmong(r, asked, names);
}

// Keys of the pairs that are not asked for come from `other_key`, given the last key asked for.
Result<EvalSample> JsonObject(const TaskRequest& r,
                              std::string (*other_key)(const std::string& asked, Random* random)) {
  const std::string opening =
      "Extract the value corresponding to the specified key in the JSON object below.\n\n{";
  const auto pair = [](const std::string& key, const std::string& value) {
    return "\"" + key + "\": \"" + value + "\"";
  };
  EvalSample sample;
  std::vector<std::string> pairs;
  std::string asked;
  for (int turn = 0; turn < r.turns; ++turn) {
    asked = Uuid(r.random);
    const std::string answer = Uuid(r.random);
    PQCACHE_ASSIGN_OR_RETURN(
        sample.questions.emplace_back(),
        Question(r, "\nKey: \"" + asked + "\"\nThe value associated with the specified key is:",
                 " \"" + answer));
    pairs.push_back(pair(asked, answer));
  }
  PQCACHE_ASSIGN_OR_RETURN(const Tokens frame, r.tokenizer->Encode(opening + "}\n", false));
  PQCACHE_ASSIGN_OR_RETURN(int64_t room, RoomFor(r, sample, frame.size()));
  for (size_t i = 0;; ++i) {
    if (i == pairs.size()) {
      const std::string value = Uuid(r.random);
      pairs.push_back(pair(other_key(asked, r.random), value));
    }
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
    const auto of_turn = static_cast<size_t>(turn);
    std::swap(pairs[of_turn], pairs[std::max(of_turn, std::min(place, pairs.size() - 1))]);
  }
  std::string text = opening;
  for (size_t i = 0; i < pairs.size(); ++i) text += (i > 0 ? ", " : "") + pairs[i];
  PQCACHE_ASSIGN_OR_RETURN(sample.context, r.tokenizer->Encode(text + "}\n", false));
  sample.depth = r.depth;
  return sample;
}

Result<EvalSample> KvRetrieval(const TaskRequest& r) {
  return JsonObject(r, [](const std::string&, Random* random) { return Uuid(random); });
}

// Keys that begin like the one asked for, four groups of five.
Result<EvalSample> KvLookalikes(const TaskRequest& r) {
  PQCACHE_RETURN_IF_ERROR(CheckOneQuestion(r, "kv_lookalikes"));
  return JsonObject(r, [](const std::string& asked, Random* random) {
    const size_t own = asked.rfind('-') + 1;
    std::string key = asked;
    while (key == asked) key = asked.substr(0, own) + Uuid(random).substr(own);
    return key;
  });
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
    {"lookalikes", "a needle among all those whose names share a word with its own", Lookalikes},
    {"many_needles", "a needle among as many as the context holds", ManyNeedles},
    {"kv_lookalikes", "kv_retrieval among keys of which only the last group differs", KvLookalikes},
    {"copy", "continue a passage of the filler that is begun again", Copy},
};

}  // namespace

std::span<const TaskEntry> GeneratedTasks() { return kTasks; }

std::string TaskNames() {
  std::string names;
  for (const TaskEntry& entry : kTasks) {
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  return names;
}

Result<const TaskEntry*> FindTask(std::string_view name) {
  for (const TaskEntry& entry : kTasks) {
    if (entry.name == name) return &entry;
  }
  return Status::InvalidArgument("unknown task '" + std::string(name) +
                                 "', expected one of: " + TaskNames());
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
