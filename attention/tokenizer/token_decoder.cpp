#include "attention/tokenizer/token_decoder.h"

#include <utility>

#include "attention/tokenizer/component.h"
#include "attention/tokenizer/decoder_steps.h"

namespace pqcache::attention {
namespace {

constexpr std::string_view kTypes =
    "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip or Sequence";

Result<TokenDecoder::StepMaker> ParseStrip(const Json& json, bool fused) {
  PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"content", "start", "stop"}));
  PQCACHE_ASSIGN_OR_RETURN(const std::string content, GetCharacter(json, "content"));
  PQCACHE_ASSIGN_OR_RETURN(const int64_t start, json.GetInt("start"));
  PQCACHE_ASSIGN_OR_RETURN(const int64_t stop, json.GetInt("stop"));
  if (start < 0 || stop < 0) {
    return Status::InvalidArgument("start is " + std::to_string(start) + " and stop is " +
                                   std::to_string(stop) + ", expected counts");
  }
  const StripOptions options{content, start, stop};
  if (fused) return TokenDecoder::StepMaker([options] { return MakeFusedStripStep(options); });
  return TokenDecoder::StepMaker([options] { return MakeStripStep(options); });
}

Result<TokenDecoder::StepMaker> ParseReplace(const Json& json, Growth* growth) {
  PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"pattern", "content"}));
  PQCACHE_ASSIGN_OR_RETURN(const std::string from, GetStringPattern(json));
  PQCACHE_ASSIGN_OR_RETURN(const std::string to, json.GetString("content"));
  PQCACHE_RETURN_IF_ERROR(growth->Add(ReplaceGrowth(from, to)));
  return TokenDecoder::StepMaker([from, to] { return MakeReplaceStep(from, to); });
}

// `fused`: a step before this one made one token of everything. Only Replace makes tokens longer
// again and again.
Result<TokenDecoder::StepMaker> ParseStep(const Json& json, const std::string& type, bool fused,
                                          Growth* growth) {
  if (type == "Strip") return ParseStrip(json, fused);
  if (type == "Fuse") {
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {}));
    return TokenDecoder::StepMaker(MakeFuseStep);
  }
  if (fused) {
    return Status::Unsupported("found after Fuse or ByteLevel, where only Strip is supported");
  }
  if (type == "ByteLevel") {
    // The options concern encoding.
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"add_prefix_space", "trim_offsets", "use_regex"}));
    return TokenDecoder::StepMaker(MakeByteLevelStep);
  }
  if (type == "ByteFallback") {
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {}));
    return TokenDecoder::StepMaker(MakeByteFallbackStep);
  }
  if (type == "Metaspace") {
    PQCACHE_ASSIGN_OR_RETURN(const MetaspaceOptions options, ParseMetaspace(json));
    return TokenDecoder::StepMaker([options] { return MakeMetaspaceStep(options); });
  }
  if (type == "Replace") return ParseReplace(json, growth);
  return UnknownType(type, kTypes);
}

}  // namespace

Result<TokenDecoder> TokenDecoder::FromJson(const Json& json) {
  if (json.is_null()) {
    return Status::Unsupported("is null, expected " + std::string(kTypes));
  }
  TokenDecoder decoder;
  bool fused = false;
  Growth growth;
  PQCACHE_RETURN_IF_ERROR(VisitComponents(
      json, "decoders", [&](const Json& component, const std::string& type) -> Status {
        PQCACHE_ASSIGN_OR_RETURN(StepMaker maker, ParseStep(component, type, fused, &growth));
        decoder.step_makers_.push_back(std::move(maker));
        fused = fused || type == "Fuse" || type == "ByteLevel";
        return Status::Ok();
      }));
  return decoder;
}

TokenDecoderRun::TokenDecoderRun(const TokenDecoder& decoder) {
  for (const TokenDecoder::StepMaker& make : decoder.step_makers()) steps_.push_back(make());
}

std::string TokenDecoderRun::PassOn(size_t first, std::vector<std::string> tokens) {
  for (size_t i = first; i < steps_.size(); ++i) {
    std::vector<std::string> next;
    for (std::string& token : tokens) steps_[i]->Push(std::move(token), &next);
    tokens = std::move(next);
  }
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

std::string TokenDecoderRun::Push(const std::string& token) { return PassOn(0, {token}); }

std::string TokenDecoderRun::Finish() {
  std::string text;
  for (size_t i = 0; i < steps_.size(); ++i) {
    std::vector<std::string> rest;
    steps_[i]->Finish(&rest);
    text += PassOn(i + 1, std::move(rest));
  }
  return text;
}

}  // namespace pqcache::attention
