#pragma once

// A tokenizer.json small enough to read, put together from its parts.

#include <string>

namespace pqcache::attention {

struct MiniTokenizer {
  std::string version = R"("1.0")";
  std::string added_tokens =
      R"([{"id": 9, "content": "<s>", "special": true, "normalized": false,
           "lstrip": false, "rstrip": false, "single_word": false}])";
  std::string normalizer = "null";
  std::string pre_tokenizer = "null";
  std::string post_processor = "null";
  std::string decoder = R"({"type": "Fuse"})";
  // Ranks: "a b" before "b c".
  std::string vocab = R"({"<unk>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "bc": 5, " ": 6})";
  std::string merges = R"([["a", "b"], "b c"])";
  std::string model_options = R"("unk_token": "<unk>")";

  std::string Model() const {
    return R"({"type": "BPE", "vocab": )" + vocab + R"(, "merges": )" + merges + ", " +
           model_options + "}";
  }
  std::string Json() const {
    return R"({"version": )" + version + R"(, "truncation": null, "padding": null,)" +
           R"("added_tokens": )" + added_tokens + R"(, "normalizer": )" + normalizer +
           R"(, "pre_tokenizer": )" + pre_tokenizer + R"(, "post_processor": )" + post_processor +
           R"(, "decoder": )" + decoder + R"(, "model": )" + Model() + "}";
  }
};

// A list of `steps` normalizers or decoders, each of which doubles every "a".
inline std::string DoublingSteps(int steps) {
  std::string list;
  for (int i = 0; i < steps; ++i) {
    list += R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},)";
  }
  list.pop_back();
  return list;
}

}  // namespace pqcache::attention
