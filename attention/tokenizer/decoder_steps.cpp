#include "attention/tokenizer/decoder_steps.h"

#include <utility>
#include <vector>

#include "attention/tokenizer/byte_spelling.h"
#include "attention/tokenizer/unicode.h"

namespace pqcache::attention {
namespace {

using Tokens = std::vector<std::string>;

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

class ByteLevelStep : public DecoderStep {
 public:
  void Push(std::string token, Tokens* out) override {
    bytes_ += UnspellBytes(token);
    std::string text;
    bytes_.erase(0, AppendLossyUtf8(bytes_, &text));
    out->push_back(std::move(text));
  }
  void Finish(Tokens* out) override {
    if (!bytes_.empty()) out->emplace_back(kReplacementCharacter);
  }

 private:
  std::string bytes_;  // of a character that is not complete
};

class ByteFallbackStep : public DecoderStep {
 public:
  void Push(std::string token, Tokens* out) override {
    if (const auto byte = ParseByteToken(token)) {
      run_.push_back(static_cast<char>(*byte));
      return;
    }
    Finish(out);
    out->push_back(std::move(token));
  }
  void Finish(Tokens* out) override {
    if (run_.empty()) return;
    if (FindInvalidUtf8(run_) == std::string_view::npos) {
      out->push_back(run_);
    } else {
      out->insert(out->end(), run_.size(), std::string(kReplacementCharacter));
    }
    run_.clear();
  }

 private:
  std::string run_;
};

class MetaspaceStep : public DecoderStep {
 public:
  explicit MetaspaceStep(const MetaspaceOptions& options)
      : replacement_(options.replacement),
        is_dropped_(options.prepend != MetaspaceOptions::Prepend::kNever) {}
  void Push(std::string token, Tokens* out) override {
    out->push_back(ReplaceAll(token, replacement_, is_dropped_ ? "" : " "));
    is_dropped_ = false;
  }

 private:
  std::string replacement_;
  bool is_dropped_;
};

class ReplaceStep : public DecoderStep {
 public:
  ReplaceStep(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {}
  void Push(std::string token, Tokens* out) override {
    out->push_back(ReplaceAll(token, from_, to_));
  }

 private:
  std::string from_;
  std::string to_;
};

class FuseStep : public DecoderStep {
 public:
  void Push(std::string token, Tokens* out) override { out->push_back(std::move(token)); }
};

class FusedStripStep : public DecoderStep {
 public:
  explicit FusedStripStep(const StripOptions& options)
      : content_(options.content), start_left_(options.start), stop_(options.stop) {}
  void Push(std::string token, Tokens* out) override {
    size_t begin = 0;
    while (start_left_ > 0 && begin < token.size()) {
      if (token.compare(begin, content_.size(), content_) == 0) {
        begin += content_.size();
        --start_left_;
      } else {
        start_left_ = 0;
      }
    }
    tail_.append(token, begin);
    out->push_back(tail_.substr(0, TailBegin()));
    tail_.erase(0, out->back().size());
  }

 private:
  // Where the characters begin that are cut off if nothing follows.
  size_t TailBegin() const {
    size_t begin = tail_.size();
    for (int64_t i = 0; i < stop_ && begin >= content_.size(); ++i) {
      if (tail_.compare(begin - content_.size(), content_.size(), content_) != 0) break;
      begin -= content_.size();
    }
    return begin;
  }

  std::string content_;
  int64_t start_left_;
  int64_t stop_;
  std::string tail_;
};

class StripStep : public DecoderStep {
 public:
  explicit StripStep(StripOptions options) : options_(std::move(options)) {}
  void Push(std::string token, Tokens* out) override {
    FusedStripStep(options_).Push(std::move(token), out);
  }

 private:
  StripOptions options_;
};

}  // namespace

std::unique_ptr<DecoderStep> MakeByteLevelStep() { return std::make_unique<ByteLevelStep>(); }
std::unique_ptr<DecoderStep> MakeByteFallbackStep() { return std::make_unique<ByteFallbackStep>(); }
std::unique_ptr<DecoderStep> MakeMetaspaceStep(const MetaspaceOptions& options) {
  return std::make_unique<MetaspaceStep>(options);
}
std::unique_ptr<DecoderStep> MakeReplaceStep(const std::string& from, const std::string& to) {
  return std::make_unique<ReplaceStep>(from, to);
}
std::unique_ptr<DecoderStep> MakeFuseStep() { return std::make_unique<FuseStep>(); }
std::unique_ptr<DecoderStep> MakeStripStep(const StripOptions& options) {
  return std::make_unique<StripStep>(options);
}
std::unique_ptr<DecoderStep> MakeFusedStripStep(const StripOptions& options) {
  return std::make_unique<FusedStripStep>(options);
}

}  // namespace pqcache::attention
