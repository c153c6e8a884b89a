#include "attention/tokenizer/post_processor.h"

#include "attention/tokenizer/component.h"

namespace pqcache::attention {
namespace {

using Tokens = std::vector<PostTemplate::Token>;

// Pieces may name the same tokens again and again.
constexpr size_t kMaxPieces = 64;
constexpr size_t kMaxTokens = 64;  // before the text, and after it

// Appends the tokens that special_tokens lists under `name`.
Status AppendSpecial(const Json& json, const std::string& name, Tokens* out) {
  const Json* specials = json.Find("special_tokens");
  const Json* special = specials == nullptr ? nullptr : specials->Find(name);
  const Json* ids = special == nullptr ? nullptr : special->Find("ids");
  const Json* contents = special == nullptr ? nullptr : special->Find("tokens");
  if (ids == nullptr || !ids->is_array() || contents == nullptr || !contents->is_array() ||
      ids->AsArray().size() != contents->AsArray().size()) {
    return Status::Corruption("special_tokens has no ids and tokens, equally many, for " +
                              Quoted(name));
  }
  if (out->size() + ids->AsArray().size() > kMaxTokens) {
    return Status::Unsupported(
        "template has " + std::to_string(out->size() + ids->AsArray().size()) +
        " tokens beside the text, expected at most " + std::to_string(kMaxTokens));
  }
  for (size_t i = 0; i < ids->AsArray().size(); ++i) {
    const Json& id = ids->AsArray()[i];
    const Json& content = contents->AsArray()[i];
    if (!id.is_int() || !content.is_string()) {
      return Status::Corruption("special_tokens of " + Quoted(name) + " holds " + id.Dump() +
                                " and " + content.Dump() + ", expected an id and a token");
    }
    out->push_back({id.AsInt(), content.AsString()});
  }
  return Status::Ok();
}

Status ParsePiece(const Json& json, const Json& piece, bool* seen_text, PostTemplate* out) {
  if (const Json* special = piece.Find("SpecialToken"); special != nullptr) {
    PQCACHE_ASSIGN_OR_RETURN(const std::string name, special->GetString("id"));
    return AppendSpecial(json, name, *seen_text ? &out->suffix : &out->prefix);
  }
  const Json* sequence = piece.Find("Sequence");
  if (sequence == nullptr) {
    return Status::Unsupported("single holds " + piece.Dump() +
                               ", expected SpecialToken or Sequence");
  }
  PQCACHE_ASSIGN_OR_RETURN(const std::string id, sequence->GetString("id"));
  if (id != "A" || *seen_text) {
    return Status::Unsupported("single holds sequence " + Quoted(id) +
                               (*seen_text ? " after another one" : "") +
                               ", expected sequence A once");
  }
  *seen_text = true;
  return Status::Ok();
}

Result<PostTemplate> ParseTemplate(const Json& json) {
  PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"single", "pair", "special_tokens"}));
  const Json* single = json.Find("single");
  if (single == nullptr || !single->is_array()) {
    return Status::InvalidArgument("\"single\" is not an array of pieces");
  }
  if (single->AsArray().size() > kMaxPieces) {
    return Status::Unsupported("\"single\" has " + std::to_string(single->AsArray().size()) +
                               " pieces, expected at most " + std::to_string(kMaxPieces));
  }
  PostTemplate result;
  bool seen_text = false;
  for (const Json& piece : single->AsArray()) {
    PQCACHE_RETURN_IF_ERROR(ParsePiece(json, piece, &seen_text, &result));
  }
  if (!seen_text) return Status::Unsupported("single holds no sequence, expected sequence A once");
  return result;
}

}  // namespace

Result<PostTemplate> ParsePostProcessor(const Json& json) {
  PostTemplate result;
  if (json.is_null()) return result;
  bool has_template = false;
  PQCACHE_RETURN_IF_ERROR(VisitComponents(
      json, "processors", [&](const Json& component, const std::string& type) -> Status {
        if (type == "ByteLevel") {
          return CheckOptions(component, {"add_prefix_space", "trim_offsets", "use_regex"});
        }
        if (type != "TemplateProcessing") {
          return UnknownType(type, "ByteLevel, TemplateProcessing or Sequence");
        }
        if (has_template) return Status::Unsupported("found twice, expected at most one");
        has_template = true;
        PQCACHE_ASSIGN_OR_RETURN(result, ParseTemplate(component));
        return Status::Ok();
      }));
  return result;
}

}  // namespace pqcache::attention
