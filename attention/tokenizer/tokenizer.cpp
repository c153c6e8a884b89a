#include "attention/tokenizer/tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "attention/tokenizer/added_tokens.h"
#include "attention/tokenizer/bpe_model.h"
#include "attention/tokenizer/component.h"
#include "attention/tokenizer/normalizer.h"
#include "attention/tokenizer/post_processor.h"
#include "attention/tokenizer/pre_tokenizer.h"
#include "attention/tokenizer/token_decoder.h"
#include "attention/tokenizer/unicode.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/json.h"

namespace pqcache::attention {
namespace {

const Json& MemberOrNull(const Json& json, std::string_view key) {
  static const Json kNull;
  const Json* member = json.Find(key);
  return member == nullptr ? kNull : *member;
}

// The words of one text with the places of their ids, so that a word is encoded once.
class WordEncoder {
 public:
  WordEncoder(const BpeModel& model, std::vector<int64_t>* ids) : model_(model), ids_(*ids) {}

  void Append(std::string word) {
    // Long words hardly ever come back.
    if (word.size() > kMaxCachedBytes) return model_.Tokenize(word, &ids_);
    const auto [entry, is_new] = seen_.try_emplace(std::move(word));
    Range& range = entry->second;
    if (is_new) {
      range.begin = ids_.size();
      model_.Tokenize(entry->first, &ids_);
      range.end = ids_.size();
    } else {
      for (size_t i = range.begin; i < range.end; ++i) ids_.push_back(ids_[i]);
    }
  }

 private:
  static constexpr size_t kMaxCachedBytes = 64;
  struct Range {
    size_t begin = 0;
    size_t end = 0;
  };
  const BpeModel& model_;
  std::vector<int64_t>& ids_;
  std::unordered_map<std::string, Range> seen_;
};

}  // namespace

struct Tokenizer::Impl {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  BpeModel model;
  AddedTokens added;
  PostTemplate post;
  TokenDecoder decoder;
  int64_t vocab_size = 0;

  // Checks that hold between the parts; sets vocab_size.
  Status Connect();
  Status EncodeText(std::string_view text, bool at_start, WordEncoder* words,
                    std::vector<int64_t>* ids) const;
  int64_t TokenId(std::string_view token) const;
  // The text that the decoder gets for `id`: nullptr when it is left out.
  Result<const std::string*> TokenText(int64_t id, bool skip_special) const;
};

Status Tokenizer::Impl::Connect() {
  vocab_size = model.vocab_size();
  for (const AddedToken& token : added.tokens()) {
    const std::string name = "added token " + Quoted(token.content);
    if (token.id < 0 || token.id >= BpeModel::kMaxVocabSize) {
      return Status::Corruption(name + " has id " + std::to_string(token.id) +
                                ", expected one in [0, " + std::to_string(BpeModel::kMaxVocabSize) +
                                ")");
    }
    const std::string* owner = model.Find(token.id);
    const int64_t id = model.IdOf(token.content);
    if ((owner != nullptr && *owner != token.content) || (id >= 0 && id != token.id)) {
      return Status::Corruption(name + " has id " + std::to_string(token.id) +
                                ", which the vocabulary gives to " +
                                (owner == nullptr ? "nothing" : Quoted(*owner)) +
                                (id < 0 ? "" : ", while that token is " + std::to_string(id)));
    }
    vocab_size = std::max(vocab_size, token.id + 1);
  }
  for (const auto* tokens : {&post.prefix, &post.suffix}) {
    for (const PostTemplate::Token& token : *tokens) {
      if (TokenId(token.content) == token.id) continue;
      return Status::Corruption("post_processor: " + Quoted(token.content) + " has id " +
                                std::to_string(token.id) + ", expected " +
                                std::to_string(TokenId(token.content)) + " (-1: no such token)");
    }
  }
  return Status::Ok();
}

int64_t Tokenizer::Impl::TokenId(std::string_view token) const {
  const int64_t id = added.IdOf(token);
  return id >= 0 ? id : model.IdOf(token);
}

Status Tokenizer::Impl::EncodeText(std::string_view text, bool at_start, WordEncoder* words,
                                   std::vector<int64_t>* ids) const {
  PQCACHE_ASSIGN_OR_RETURN(const std::string normalized, normalizer.Normalize(text));
  for (const AddedTokens::Segment& segment : added.SplitNormalized(normalized)) {
    if (segment.id >= 0) {
      ids->push_back(segment.id);
    } else {
      for (std::string& word : pre_tokenizer.Split(segment.text, at_start)) {
        words->Append(std::move(word));
      }
    }
    at_start = false;
  }
  return Status::Ok();
}

Result<const std::string*> Tokenizer::Impl::TokenText(int64_t id, bool skip_special) const {
  const std::string* text = nullptr;
  if (const AddedToken* token = added.Find(id); token != nullptr) {
    if (token->special && skip_special) return text;
    text = &token->pattern;
  } else {
    text = model.Find(id);
  }
  if (text == nullptr) {
    return Status::InvalidArgument("token id " + std::to_string(id) +
                                   " is not in the vocabulary, which ends at " +
                                   std::to_string(vocab_size - 1));
  }
  return text;
}

Result<Tokenizer> Tokenizer::Parse(std::string_view text) {
  PQCACHE_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  PQCACHE_ASSIGN_OR_RETURN(const std::string version, json.GetString("version"));
  if (version != "1.0") {
    return Status::Unsupported("version is " + Quoted(version) + ", expected \"1.0\"");
  }
  // truncation and padding are what batches were last cut to, not properties of the text: a prompt
  // is never shortened or filled up here.
  PQCACHE_RETURN_IF_ERROR(
      CheckOptions(json, {"version", "truncation", "padding", "added_tokens", "normalizer",
                          "pre_tokenizer", "post_processor", "decoder", "model"}));
  const auto part = [&](std::string_view key, auto&& parse) {
    auto result = parse(MemberOrNull(json, key));
    using T = decltype(result);
    return result.ok() ? std::move(result) : T(result.status().Annotate(key));
  };
  PQCACHE_ASSIGN_OR_RETURN(Normalizer normalizer, part("normalizer", Normalizer::FromJson));
  PQCACHE_ASSIGN_OR_RETURN(PreTokenizer pre, part("pre_tokenizer", PreTokenizer::FromJson));
  PQCACHE_ASSIGN_OR_RETURN(BpeModel model, part("model", BpeModel::FromJson));
  PQCACHE_ASSIGN_OR_RETURN(AddedTokens added, part("added_tokens", [&](const Json& tokens) {
                             return AddedTokens::FromJson(tokens, normalizer);
                           }));
  PQCACHE_ASSIGN_OR_RETURN(PostTemplate post, part("post_processor", ParsePostProcessor));
  PQCACHE_ASSIGN_OR_RETURN(TokenDecoder decoder, part("decoder", TokenDecoder::FromJson));
  auto impl = std::make_unique<Impl>(Impl{std::move(normalizer), std::move(pre), std::move(model),
                                          std::move(added), std::move(post), std::move(decoder)});
  PQCACHE_RETURN_IF_ERROR(impl->Connect());
  return Tokenizer(std::move(impl));
}

Result<Tokenizer> Tokenizer::Load(const std::string& path) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, JsonLimits().max_bytes));
  Result<Tokenizer> tokenizer = Parse(text);
  if (!tokenizer.ok()) return tokenizer.status().Annotate(path);
  return tokenizer;
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<std::vector<int64_t>> Tokenizer::Encode(std::string_view text, bool add_special) const {
  if (const size_t at = FindInvalidUtf8(text); at != std::string_view::npos) {
    return Status::InvalidArgument("text is not UTF-8 at byte " + std::to_string(at));
  }
  std::vector<int64_t> ids;
  WordEncoder words(impl_->model, &ids);
  if (add_special) {
    for (const PostTemplate::Token& token : impl_->post.prefix) ids.push_back(token.id);
  }
  bool at_start = true;
  for (const AddedTokens::Segment& segment : impl_->added.SplitRaw(text)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
    } else {
      PQCACHE_RETURN_IF_ERROR(impl_->EncodeText(segment.text, at_start, &words, &ids));
    }
    at_start = false;
  }
  if (add_special) {
    for (const PostTemplate::Token& token : impl_->post.suffix) ids.push_back(token.id);
  }
  return ids;
}

Result<std::string> Tokenizer::Decode(std::span<const int64_t> ids, bool skip_special) const {
  TokenDecoderRun run(impl_->decoder);
  std::string text;
  for (const int64_t id : ids) {
    PQCACHE_ASSIGN_OR_RETURN(const std::string* token, impl_->TokenText(id, skip_special));
    if (token != nullptr) text += run.Push(*token);
  }
  return text + run.Finish();
}

int64_t Tokenizer::vocab_size() const { return impl_->vocab_size; }

int64_t Tokenizer::TokenId(std::string_view token) const { return impl_->TokenId(token); }

struct StreamDecoder::State {
  const Tokenizer::Impl* tokenizer;
  bool skip_special;
  TokenDecoderRun run;
};

StreamDecoder::StreamDecoder(const Tokenizer* tokenizer, bool skip_special)
    : state_(std::make_unique<State>(State{tokenizer->impl_.get(), skip_special,
                                           TokenDecoderRun(tokenizer->impl_->decoder)})) {}
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

Result<std::string> StreamDecoder::Push(int64_t id) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string* token,
                           state_->tokenizer->TokenText(id, state_->skip_special));
  return token == nullptr ? std::string() : state_->run.Push(*token);
}

Result<std::string> StreamDecoder::Finish() {
  std::string text = state_->run.Finish();
  state_->run = TokenDecoderRun(state_->tokenizer->decoder);
  return text;
}

}  // namespace pqcache::attention
