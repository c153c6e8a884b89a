#include "attention/model/safetensors_header.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "pqcache/base/coding.h"
#include "pqcache/base/json.h"

namespace pqcache::attention {
namespace {

struct FormatDtype {
  std::string_view name;
  unsigned bits;
  std::optional<DType> dtype;
};

constexpr FormatDtype kDtypes[] = {
    {"F32", 32, DType::kF32},
    {"BF16", 16, DType::kBF16},
    {"F16", 16, DType::kF16},
    {"F64", 64, DType::kF64},
    {"I64", 64, DType::kI64},
    {"I32", 32, DType::kI32},
    {"U8", 8, DType::kU8},
    {"BOOL", 8, std::nullopt},
    {"I8", 8, std::nullopt},
    {"I16", 16, std::nullopt},
    {"U16", 16, std::nullopt},
    {"U32", 32, std::nullopt},
    {"U64", 64, std::nullopt},
    {"C64", 64, std::nullopt},
    {"F8_E4M3", 8, std::nullopt},
    {"F8_E5M2", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt},
    {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2FNUZ", 8, std::nullopt},
    {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},
    {"F4", 4, std::nullopt},
};

Result<FormatDtype> FindDtype(const Json& entry) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string name, entry.GetString("dtype"));
  for (const FormatDtype& known : kDtypes) {
    if (known.name == name) return known;
  }
  return Status::Corruption("\"dtype\" is \"" + name + "\", expected one of the format's");
}

Result<const Json::Array*> FindArray(const Json& entry, std::string_view key) {
  const Json* value = entry.Find(key);
  if (value != nullptr && value->is_array()) return &value->AsArray();
  return Status::Corruption("\"" + std::string(key) + "\" is " +
                            (value == nullptr ? "absent" : std::string(value->KindName())) +
                            ", expected an array");
}

Result<int64_t> Unsigned(const Json& value, std::string_view key) {
  if (value.is_int() && value.AsInt() >= 0) return value.AsInt();
  return Status::Corruption("\"" + std::string(key) + "\" has " + value.Dump() +
                            ", expected integers from 0 to 2^63 - 1");
}

// Fills dtype, shape and the size that follows from them.
Status ParseShape(const Json& entry, TensorInfo* info) {
  PQCACHE_ASSIGN_OR_RETURN(const FormatDtype dtype, FindDtype(entry));
  info->dtype_name = dtype.name;
  info->readable = dtype.dtype.has_value();
  info->dtype = dtype.dtype.value_or(DType::kF32);

  PQCACHE_ASSIGN_OR_RETURN(const Json::Array* shape, FindArray(entry, "shape"));
  uint64_t bits = dtype.bits;
  bool fits = true;
  for (const Json& extent : *shape) {
    PQCACHE_ASSIGN_OR_RETURN(const int64_t n, Unsigned(extent, "shape"));
    info->shape.push_back(n);
    fits = fits && !__builtin_mul_overflow(bits, static_cast<uint64_t>(n), &bits);
  }
  if (!fits) return Status::Corruption("\"shape\" has more elements than 64 bits can count");
  if (bits % 8 != 0) {
    return Status::Corruption("has " + std::to_string(bits) + " bits, expected whole bytes");
  }
  info->bytes = bits / 8;
  return Status::Ok();
}

Result<TensorInfo> ParseTensor(const Json& entry) {
  if (!entry.is_object()) {
    return Status::Corruption("is " + std::string(entry.KindName()) + ", expected an object");
  }
  TensorInfo info;
  PQCACHE_RETURN_IF_ERROR(ParseShape(entry, &info));
  PQCACHE_ASSIGN_OR_RETURN(const Json::Array* offsets, FindArray(entry, "data_offsets"));
  if (offsets->size() != 2) {
    return Status::Corruption("\"data_offsets\" has " + std::to_string(offsets->size()) +
                              " numbers, expected 2");
  }
  PQCACHE_ASSIGN_OR_RETURN(const int64_t begin, Unsigned((*offsets)[0], "data_offsets"));
  PQCACHE_ASSIGN_OR_RETURN(const int64_t end, Unsigned((*offsets)[1], "data_offsets"));
  const std::string found =
      "\"data_offsets\" are " + std::to_string(begin) + " and " + std::to_string(end);
  if (begin > end) return Status::Corruption(found + ", expected the begin before the end");
  if (static_cast<uint64_t>(end - begin) != info.bytes) {
    return Status::Corruption(found + ", expected " + std::to_string(info.bytes) +
                              " bytes, from dtype and shape");
  }
  info.offset = static_cast<uint64_t>(begin);
  return info;
}

Status ParseMetadata(const Json& entry, std::map<std::string, std::string>* metadata) {
  if (!entry.is_object()) {
    return Status::Corruption("\"__metadata__\" is " + std::string(entry.KindName()) +
                              ", expected an object");
  }
  for (const auto& [key, value] : entry.AsObject()) {
    if (!value.is_string()) {
      return Status::Corruption("\"__metadata__\" has " + std::string(value.KindName()) +
                                " under \"" + key + "\", expected a string");
    }
    metadata->emplace(key, value.AsString());
  }
  return Status::Ok();
}

// Sorted by offset, tensors start at 0, touch each other and end with the data.
Status CheckLayout(const SafetensorsHeader& header, uint64_t data_bytes) {
  struct Span {
    uint64_t begin, bytes;
    std::string_view name;
  };
  std::vector<Span> spans;
  for (const auto& [name, info] : header.tensors) spans.push_back({info.offset, info.bytes, name});
  // Tensors without bytes come before the one that starts where they are.
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.bytes < b.bytes;
  });
  uint64_t end = 0;
  for (const Span& span : spans) {
    if (span.begin != end) {
      return Status::Corruption("tensor \"" + std::string(span.name) + "\" begins at " +
                                std::to_string(span.begin) + ", expected " + std::to_string(end) +
                                ", the end of the one before");
    }
    end += span.bytes;
  }
  if (end != data_bytes) {
    return Status::Corruption("has " + std::to_string(data_bytes) + " bytes of data, expected " +
                              std::to_string(end) + ", the end of the last tensor" +
                              (data_bytes < end ? " (is the file truncated?)" : ""));
  }
  return Status::Ok();
}

// The rules that a JSON parser does not know: '{' comes first, only spaces may follow the value,
// and NUL, which some parsers take for the end, occurs nowhere.
Status CheckText(std::string_view json) {
  if (json.empty() || json[0] != '{') {
    return Status::Corruption("the header does not begin with '{' as expected");
  }
  const size_t last = json.find_last_not_of(' ');
  if (json[last] != '}' || json.find('\0') != std::string_view::npos) {
    return Status::Corruption("the header does not end with '}' and spaces as expected");
  }
  return Status::Ok();
}

}  // namespace

Result<uint64_t> ParseSafetensorsLength(std::string_view start, uint64_t file_bytes) {
  if (start.starts_with("version https://git-lfs")) {
    return Status::Corruption(
        "is a git-lfs pointer, expected the weights themselves (\"git lfs pull\" fetches them)");
  }
  if (start.size() < 8) {
    return Status::Corruption("has " + std::to_string(file_bytes) +
                              " bytes, expected at least the 8 of the header's length");
  }
  const uint64_t length = GetFixed64(start.data());
  if (length > kMaxSafetensorsHeaderBytes) {
    return Status::Corruption("header length is " + std::to_string(length) + ", expected at most " +
                              std::to_string(kMaxSafetensorsHeaderBytes));
  }
  if (length > file_bytes - 8) {
    return Status::Corruption("header length is " + std::to_string(length) +
                              ", expected at most the " + std::to_string(file_bytes - 8) +
                              " bytes that follow (is the file truncated?)");
  }
  return length;
}

Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, uint64_t data_bytes) {
  PQCACHE_RETURN_IF_ERROR(CheckText(json));
  const JsonLimits limits{.max_bytes = kMaxSafetensorsHeaderBytes, .max_depth = 4};
  PQCACHE_ASSIGN_OR_RETURN(const Json root, Json::Parse(json, limits));
  SafetensorsHeader header;
  for (const auto& [name, entry] : root.AsObject()) {
    if (name == "__metadata__") {
      PQCACHE_RETURN_IF_ERROR(ParseMetadata(entry, &header.metadata));
      continue;
    }
    Result<TensorInfo> info = ParseTensor(entry);
    if (!info.ok()) {
      // Json's own errors have another code.
      return Status::Corruption("tensor \"" + name + "\": " + info.status().message());
    }
    header.tensors.emplace(name, std::move(*info));
  }
  PQCACHE_RETURN_IF_ERROR(CheckLayout(header, data_bytes));
  return header;
}

}  // namespace pqcache::attention
