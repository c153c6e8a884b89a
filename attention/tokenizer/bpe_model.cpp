#include "attention/tokenizer/bpe_model.h"

#include <algorithm>
#include <cctype>
#include <queue>
#include <utility>

#include "attention/tokenizer/byte_spelling.h"
#include "attention/tokenizer/component.h"
#include "attention/tokenizer/unicode.h"

namespace pqcache::attention {
namespace {

constexpr int64_t kMerged = -2;

// <0x??> that a lenient reader would take for a byte token although it is spelled differently.
bool IsMisspelledByteToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return false;
  const auto is_hex = [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; };
  return (is_hex(token[3]) || token[3] == '+') && is_hex(token[4]) && !ParseByteToken(token);
}

// A merge that was possible when it was queued: symbols[position] with its right neighbour.
struct Candidate {
  int32_t rank;
  int32_t id;
  int64_t position;
  // The queue's top is the largest: lowest rank, then leftmost.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

Result<BpeModel> BpeModel::FromJson(const Json& json) {
  // Files of the format's first version leave the type of a BPE model out.
  PQCACHE_ASSIGN_OR_RETURN(const std::string type,
                           json.StringOr("type", json.Find("merges") == nullptr ? "" : "BPE"));
  if (type != "BPE") return UnknownType(type, "BPE");
  BpeModel model;
  PQCACHE_RETURN_IF_ERROR(model.ParseVocab(json).Annotate("vocab"));
  PQCACHE_RETURN_IF_ERROR(model.ParseMerges(json).Annotate("merges"));
  PQCACHE_RETURN_IF_ERROR(model.ParseOptions(json));
  return model;
}

Status BpeModel::ParseOptions(const Json& json) {
  PQCACHE_RETURN_IF_ERROR(
      CheckOptions(json, {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                          "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  PQCACHE_ASSIGN_OR_RETURN(const double dropout, json.DoubleOr("dropout", 0));
  if (dropout != 0) {
    return Status::Unsupported("dropout is " + std::to_string(dropout) + ", expected null");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    PQCACHE_ASSIGN_OR_RETURN(const std::string affix, json.StringOr(key, ""));
    if (!affix.empty()) {
      return Status::Unsupported(std::string(key) + " is " + Quoted(affix) + ", expected null");
    }
  }
  PQCACHE_ASSIGN_OR_RETURN(fuse_unknown_, json.BoolOr("fuse_unk", false));
  PQCACHE_ASSIGN_OR_RETURN(ignore_merges_, json.BoolOr("ignore_merges", false));
  PQCACHE_ASSIGN_OR_RETURN(const bool byte_fallback, json.BoolOr("byte_fallback", false));
  if (byte_fallback) PQCACHE_RETURN_IF_ERROR(CheckByteTokens());
  if (const Json* unknown = json.Find("unk_token"); unknown != nullptr && !unknown->is_null()) {
    PQCACHE_ASSIGN_OR_RETURN(const std::string token, json.GetString("unk_token"));
    unknown_id_ = static_cast<int32_t>(IdOf(token));
    if (unknown_id_ < 0) {
      return Status::Corruption("unk_token " + Quoted(token) + " is not in the vocabulary");
    }
  }
  return Status::Ok();
}

Status BpeModel::ParseVocab(const Json& json) {
  const Json* vocab = json.Find("vocab");
  if (vocab == nullptr || !vocab->is_object() || vocab->AsObject().empty()) {
    return Status::InvalidArgument("expected an object of tokens and ids");
  }
  int64_t size = 0;
  for (const auto& [token, id] : vocab->AsObject()) {
    if (!id.is_int() || id.AsInt() < 0 || id.AsInt() >= kMaxVocabSize) {
      return Status::Corruption("id of " + Quoted(token) + " is " + id.Dump() +
                                ", expected an integer in [0, " + std::to_string(kMaxVocabSize) +
                                ")");
    }
    size = std::max(size, id.AsInt() + 1);
  }
  tokens_.assign(static_cast<size_t>(size), nullptr);
  ids_.reserve(vocab->AsObject().size());
  for (const auto& [token, json_id] : vocab->AsObject()) {
    const int64_t id = json_id.AsInt();
    const std::string*& slot = tokens_[static_cast<size_t>(id)];
    if (slot != nullptr) {
      return Status::Corruption("id " + std::to_string(id) + " belongs to " + Quoted(*slot) +
                                " and to " + Quoted(token));
    }
    slot = &ids_.emplace(token, static_cast<int32_t>(id)).first->first;
  }
  return Status::Ok();
}

Status BpeModel::ParseMerges(const Json& json) {
  const Json* merges = json.Find("merges");
  if (merges == nullptr || !merges->is_array()) {
    return Status::InvalidArgument("expected an array");
  }
  merges_.reserve(merges->AsArray().size());
  for (const Json& item : merges->AsArray()) {
    Status status;
    if (item.is_string()) {
      const std::string& text = item.AsString();
      if (text.starts_with("#version")) continue;
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        return Status::Corruption(Quoted(text) + " is not two tokens with a space between");
      }
      const std::string_view view = text;
      status = AddMerge(view.substr(0, space), view.substr(space + 1));
    } else if (item.is_array() && item.AsArray().size() == 2 && item.AsArray()[0].is_string() &&
               item.AsArray()[1].is_string()) {
      status = AddMerge(item.AsArray()[0].AsString(), item.AsArray()[1].AsString());
    } else {
      status = Status::Corruption(item.Dump() + " is not a pair of tokens");
    }
    PQCACHE_RETURN_IF_ERROR(status);
  }
  return Status::Ok();
}

Status BpeModel::AddMerge(std::string_view left, std::string_view right) {
  const std::string merged = std::string(left) + std::string(right);
  for (const std::string_view token : {left, right, std::string_view(merged)}) {
    if (IdOf(token) >= 0) continue;
    return Status::Corruption("merge of " + Quoted(left) + " and " + Quoted(right) + ": " +
                              Quoted(token) + " is not in the vocabulary");
  }
  const uint64_t key =
      (static_cast<uint64_t>(IdOf(left)) << 32) | static_cast<uint64_t>(IdOf(right));
  const Merge merge{static_cast<int32_t>(merges_.size()), static_cast<int32_t>(IdOf(merged))};
  if (!merges_.emplace(key, merge).second) {
    return Status::Corruption("merge of " + Quoted(left) + " and " + Quoted(right) +
                              " occurs twice");
  }
  return Status::Ok();
}

Status BpeModel::CheckByteTokens() {
  for (const auto& [token, id] : ids_) {
    if (IsMisspelledByteToken(token)) {
      return Status::Corruption("byte token " + Quoted(token) + ", expected <0x00> to <0xFF>");
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    const std::string token = ByteToken(static_cast<uint8_t>(byte));
    const int64_t id = IdOf(token);
    if (id < 0) {
      return Status::Corruption("byte_fallback is true but " + Quoted(token) +
                                " is not in the vocabulary");
    }
    byte_ids_.push_back(static_cast<int32_t>(id));
  }
  return Status::Ok();
}

int64_t BpeModel::IdOf(std::string_view token) const {
  const auto it = ids_.find(token);
  return it == ids_.end() ? -1 : it->second;
}

const std::string* BpeModel::Find(int64_t id) const {
  return id >= 0 && id < vocab_size() ? tokens_[static_cast<size_t>(id)] : nullptr;
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  const auto it = merges_.find((static_cast<uint64_t>(left) << 32) | static_cast<uint64_t>(right));
  return it == merges_.end() ? nullptr : &it->second;
}

std::vector<BpeModel::Symbol> BpeModel::SplitCharacters(std::string_view word) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  const auto add = [&](int32_t id) {
    const auto index = static_cast<int64_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1});
  };
  bool in_unknown = false;
  for (size_t pos = 0; pos < word.size();) {
    const std::string_view c = word.substr(pos, ReadUtf8(word, pos).length);
    pos += c.size();
    if (const int64_t id = IdOf(c); id >= 0) {
      add(static_cast<int32_t>(id));
      in_unknown = false;
    } else if (!byte_ids_.empty()) {
      for (const char byte : c) add(byte_ids_[static_cast<unsigned char>(byte)]);
    } else if (unknown_id_ >= 0) {
      if (!in_unknown || !fuse_unknown_) add(unknown_id_);
      in_unknown = true;
    }
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return symbols;
}

void BpeModel::MergeSymbols(std::vector<Symbol>* symbols) const {
  std::vector<Symbol>& s = *symbols;
  const auto at = [&](int64_t index) -> Symbol& { return s[static_cast<size_t>(index)]; };
  std::priority_queue<Candidate> queue;
  const auto consider = [&](int64_t left, int64_t right) {
    if (left < 0 || right < 0) return;
    const Merge* merge = FindMerge(at(left).id, at(right).id);
    if (merge != nullptr) queue.push({merge->rank, merge->id, left});
  };
  for (int64_t i = 0; i + 1 < static_cast<int64_t>(s.size()); ++i) consider(i, i + 1);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = at(top.position);
    if (left.next < 0) continue;
    Symbol& right = at(left.next);
    // The neighbours may have changed since the pair was queued.
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;
    left.id = top.id;
    left.next = std::exchange(right.next, kMerged);
    if (left.next >= 0) at(left.next).previous = top.position;
    consider(left.previous, top.position);
    consider(top.position, left.next);
  }
}

void BpeModel::Tokenize(std::string_view word, std::vector<int64_t>* ids) const {
  if (ignore_merges_) {
    if (const int64_t id = IdOf(word); id >= 0) {
      ids->push_back(id);
      return;
    }
  }
  std::vector<Symbol> symbols = SplitCharacters(word);
  MergeSymbols(&symbols);
  for (const Symbol& symbol : symbols) {
    if (symbol.next != kMerged) ids->push_back(symbol.id);
  }
}

}  // namespace pqcache::attention
