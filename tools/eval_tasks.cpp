#include "tools/eval_tasks.h"

#include <algorithm>

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

// Puts question and answer into the sample.
Status SetQuestion(const TaskRequest& r, const std::string& question, const std::string& answer,
                   TaskSample* sample) {
  PQCACHE_ASSIGN_OR_RETURN(sample->question, r.tokenizer->Encode(question, false));
  PQCACHE_ASSIGN_OR_RETURN(const Tokens tokens, r.tokenizer->Encode(answer, false));
  sample->answer = answer;
  sample->answer_tokens = static_cast<int64_t>(tokens.size());
  sample->depth = r.depth;
  return Status::Ok();
}

Result<int64_t> RoomFor(const TaskRequest& r, const TaskSample& sample, size_t fact_tokens) {
  const int64_t room =
      r.ctx - static_cast<int64_t>(sample.question.size() + fact_tokens) - sample.answer_tokens;
  if (room < 0) {
    return Status::InvalidArgument("--ctx is " + std::to_string(r.ctx) + ", the task needs " +
                                   std::to_string(r.ctx - room) + " tokens without any filler");
  }
  return room;
}

// `fact` at the sample's depth inside filler from a random place of the haystack.
Result<TaskSample> HideFact(const TaskRequest& r, const std::string& fact,
                            const std::string& question, const std::string& answer) {
  TaskSample sample;
  PQCACHE_RETURN_IF_ERROR(SetQuestion(r, question, answer, &sample));
  PQCACHE_ASSIGN_OR_RETURN(const Tokens hidden, r.tokenizer->Encode(fact, false));
  PQCACHE_ASSIGN_OR_RETURN(const int64_t room, RoomFor(r, sample, hidden.size()));
  const auto filler = static_cast<size_t>(room);
  const size_t offset = r.random->Below(r.haystack.size() - filler + 1);
  const auto text = r.haystack.subspan(offset, filler);
  const auto before = static_cast<std::ptrdiff_t>(r.depth * static_cast<double>(filler));
  sample.context.assign(text.begin(), text.begin() + before);
  sample.context.insert(sample.context.end(), hidden.begin(), hidden.end());
  sample.context.insert(sample.context.end(), text.begin() + before, text.end());
  return sample;
}

Result<TaskSample> Passkey(const TaskRequest& r) {
  const std::string key = Digits(r.random, 5);
  return HideFact(r, "\nThe pass key is " + key + ". Remember it. " + key + " is the pass key.\n",
                  "\nWhat is the pass key? The pass key is", " " + key);
}

Result<TaskSample> Needle(const TaskRequest& r) {
  static constexpr std::string_view kWords[] = {"harbor",  "lantern", "violet", "granite",
                                                "orchard", "whisper", "meadow", "copper"};
  std::string key(kWords[r.random->Below(std::size(kWords))]);
  if (r.random->Below(2) == 1) key += "-" + std::string(kWords[r.random->Below(std::size(kWords))]);
  const std::string number = Digits(r.random, 7);
  const std::string subject = "special magic number for " + key + " mentioned in the provided text";
  return HideFact(r, "\nOne of the special magic numbers for " + key + " is: " + number + ".\n",
                  "\nWhat is the " + subject + "? The " + subject + " is", " " + number);
}

Result<TaskSample> KvRetrieval(const TaskRequest& r) {
  const std::string opening =
      "Extract the value corresponding to the specified key in the JSON object below.\n\n{";
  const std::string asked = Uuid(r.random), answer = Uuid(r.random);
  TaskSample sample;
  PQCACHE_RETURN_IF_ERROR(
      SetQuestion(r, "\nKey: \"" + asked + "\"\nThe value associated with the specified key is:",
                  " \"" + answer, &sample));
  PQCACHE_ASSIGN_OR_RETURN(const Tokens frame, r.tokenizer->Encode(opening + "}\n", false));
  PQCACHE_ASSIGN_OR_RETURN(int64_t room, RoomFor(r, sample, frame.size()));
  const auto pair = [](const std::string& key, const std::string& value) {
    return "\"" + key + "\": \"" + value + "\"";
  };
  std::vector<std::string> pairs = {pair(asked, answer)};
  while (true) {
    PQCACHE_ASSIGN_OR_RETURN(const Tokens last, r.tokenizer->Encode(pairs.back() + ", ", false));
    room -= static_cast<int64_t>(last.size());
    if (room < 0) break;
    pairs.push_back(pair(Uuid(r.random), Uuid(r.random)));
  }
  if (pairs.size() == 1) {
    return Status::InvalidArgument("--ctx is " + std::to_string(r.ctx) + ", the task needs " +
                                   std::to_string(r.ctx - room) + " tokens for a single pair");
  }
  pairs.pop_back();
  const auto place = static_cast<size_t>(r.depth * static_cast<double>(pairs.size()));
  std::swap(pairs.front(), pairs[std::min(place, pairs.size() - 1)]);
  std::string text = opening;
  for (size_t i = 0; i < pairs.size(); ++i) text += (i > 0 ? ", " : "") + pairs[i];
  PQCACHE_ASSIGN_OR_RETURN(sample.context, r.tokenizer->Encode(text + "}\n", false));
  return sample;
}

// The filler itself is the fact: its tokens from some depth on are begun again and must be
// continued.
Result<TaskSample> Copy(const TaskRequest& r) {
  constexpr int64_t kPrompted = 32, kAnswered = 16;
  if (r.ctx < 2 * (kPrompted + kAnswered)) {
    return Status::InvalidArgument("--ctx is " + std::to_string(r.ctx) + ", the copy task needs " +
                                   std::to_string(2 * (kPrompted + kAnswered)));
  }
  const int64_t filler = r.ctx - kPrompted - kAnswered;
  const size_t offset = r.random->Below(r.haystack.size() - static_cast<size_t>(filler) + 1);
  const auto text = r.haystack.subspan(offset, static_cast<size_t>(filler));
  const auto start =
      static_cast<std::ptrdiff_t>(r.depth * static_cast<double>(filler - kPrompted - kAnswered));
  TaskSample sample;
  sample.context.assign(text.begin(), text.end());
  sample.question.assign(text.begin() + start, text.begin() + start + kPrompted);
  const Tokens answer(text.begin() + start + kPrompted,
                      text.begin() + start + kPrompted + kAnswered);
  PQCACHE_ASSIGN_OR_RETURN(sample.answer, r.tokenizer->Decode(answer, false));
  sample.answer_tokens = kAnswered;
  sample.depth = r.depth;
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
