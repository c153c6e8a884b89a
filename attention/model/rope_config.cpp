#include "attention/model/rope_config.h"

#include <string>

#include "attention/model/config_reader.h"

namespace pqcache::attention {
namespace {

// Limits keep every angle finite: frequencies never exceed 1.
Result<double> AtLeastOne(std::string_view key, Result<double> found) {
  if (found.ok() && *found < 1.0) {
    return Status::InvalidArgument("\"" + std::string(key) + "\" is " + std::to_string(*found) +
                                   ", expected at least 1");
  }
  return found;
}

// The object that holds the scaling: rope_parameters (version 5), rope_scaling (version 4), or an
// empty one.
Result<Json> FindParameters(const Json& config) {
  Json found = Json::Object();
  std::string_view source;
  for (const std::string_view key : {"rope_parameters", "rope_scaling"}) {
    const Json* value = config.Find(key);
    if (value == nullptr || value->is_null()) continue;
    if (!value->is_object()) {
      return Status::InvalidArgument("\"" + std::string(key) + "\" is " +
                                     std::string(value->KindName()) + ", expected an object");
    }
    if (!source.empty()) {
      return Status::InvalidArgument(
          "\"rope_parameters\" and \"rope_scaling\" are both present, expected one of them");
    }
    source = key;
    found = *value;
  }
  for (const auto& [name, value] : found.AsObject()) {
    if (value.is_object()) {
      return Status::Unsupported(
          "\"" + std::string(source) + "\" has an object \"" + name +
          "\" (settings per layer type), expected one setting for all layers");
    }
  }
  return found;
}

Status ReadLlama3(const Json& parameters, RopeSpec* rope) {
  PQCACHE_ASSIGN_OR_RETURN(rope->low_freq_factor, parameters.GetDouble("low_freq_factor"));
  PQCACHE_ASSIGN_OR_RETURN(rope->high_freq_factor, parameters.GetDouble("high_freq_factor"));
  if (rope->low_freq_factor <= 0 || rope->high_freq_factor <= rope->low_freq_factor) {
    return Status::InvalidArgument(
        "\"low_freq_factor\" is " + std::to_string(rope->low_freq_factor) +
        " and \"high_freq_factor\" is " + std::to_string(rope->high_freq_factor) +
        ", expected 0 < low < high");
  }
  PQCACHE_ASSIGN_OR_RETURN(
      rope->original_max_positions,
      ReadInt(parameters, "original_max_position_embeddings", 1, kMaxPositions));
  return Status::Ok();
}

Status ReadKind(const Json& parameters, RopeSpec* rope) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string old_name, parameters.StringOr("type", "default"));
  PQCACHE_ASSIGN_OR_RETURN(const std::string name, parameters.StringOr("rope_type", old_name));
  if (name == "default") return Status::Ok();
  if (name != "linear" && name != "llama3") {
    return Status::Unsupported("rope type is \"" + name +
                               "\", expected one of default, linear, llama3");
  }
  PQCACHE_ASSIGN_OR_RETURN(rope->factor, AtLeastOne("factor", parameters.GetDouble("factor")));
  rope->kind = name == "linear" ? RopeSpec::Kind::kLinear : RopeSpec::Kind::kLlama3;
  return name == "linear" ? Status::Ok() : ReadLlama3(parameters, rope);
}

}  // namespace

Status ReadRope(const Json& config, const RopeKeys& keys, ModelSpec* spec) {
  PQCACHE_ASSIGN_OR_RETURN(const Json parameters, FindParameters(config));
  RopeSpec rope;
  PQCACHE_RETURN_IF_ERROR(ReadKind(parameters, &rope));

  PQCACHE_ASSIGN_OR_RETURN(const double theta, config.DoubleOr(keys.theta, rope.theta));
  PQCACHE_ASSIGN_OR_RETURN(rope.theta,
                           AtLeastOne("rope_theta", parameters.DoubleOr("rope_theta", theta)));

  PQCACHE_ASSIGN_OR_RETURN(double partial, config.DoubleOr(keys.partial, keys.default_partial));
  PQCACHE_ASSIGN_OR_RETURN(partial, parameters.DoubleOr("partial_rotary_factor", partial));
  if (partial <= 0.0 || partial > 1.0) {
    return Status::InvalidArgument("the rotary part of a head is " + std::to_string(partial) +
                                   ", expected above 0 and at most 1");
  }
  rope.rotary_dim = static_cast<int>(spec->head_dim * partial);
  if (rope.rotary_dim < 2 || rope.rotary_dim % 2 != 0) {
    return Status::InvalidArgument("the rotary part has " + std::to_string(rope.rotary_dim) +
                                   " of " + std::to_string(spec->head_dim) +
                                   " channels, expected an even number of at least 2");
  }
  spec->rope = rope;
  return Status::Ok();
}

}  // namespace pqcache::attention
