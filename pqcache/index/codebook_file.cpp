// The .pqcb container: codebook_format.md.

#include <algorithm>
#include <cstring>

#include "pqcache/base/coding.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/json.h"
#include "pqcache/index/codebook.h"
#include "pqcache/index/codebook_file_info.h"

namespace pqcache {
namespace {

// Files without position means and residuals are written as version 1, which knows none.
constexpr uint32_t kNewestVersion = 2;
constexpr size_t kHeaderBytes = 32;
constexpr uint64_t kMaxFileBytes = uint64_t{8} << 30;

void AppendFloats(std::span<const float> values, std::string* out) {
  out->append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

std::string BlockName(int index, int kv_heads) {
  return "block of layer " + std::to_string(index / kv_heads) + " head " +
         std::to_string(index % kv_heads);
}

Result<Fingerprint> ParseFingerprint(const std::string& hex) {
  Fingerprint f;
  bool ok = hex.size() == 2 * f.bytes.size();
  for (size_t i = 0; ok && i < hex.size(); ++i) {
    const char c = hex[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    ok = digit >= 0;
    f.bytes[i / 2] = static_cast<uint8_t>(f.bytes[i / 2] * 16 + digit);
  }
  if (!ok) {
    return Status::Corruption("model fingerprint is '" + hex + "', expected 32 hexadecimal digits");
  }
  return f;
}

struct Description {
  uint32_t version = 1;
  CodebookSet set;  // without heads
  PqShape shape;
  int64_t frequencies = 0;  // of the position means, or 0
};

Result<Description> ParseDescription(uint32_t version, std::string_view text) {
  PQCACHE_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  Description d;
  d.version = version;
  PQCACHE_ASSIGN_OR_RETURN(const std::string model, json.GetString("model"));
  PQCACHE_ASSIGN_OR_RETURN(d.set.model, ParseFingerprint(model));
  int64_t fields[5];
  constexpr std::string_view kNames[5] = {"layers", "kv_heads", "dim", "subspaces", "bits"};
  for (int i = 0; i < 5; ++i) {
    PQCACHE_ASSIGN_OR_RETURN(fields[i], json.GetInt(kNames[i]));
    if (fields[i] < 1 || fields[i] > 4096) {
      return Status::Corruption(std::string(kNames[i]) + " is " + std::to_string(fields[i]) +
                                ", expected 1 to 4096");
    }
  }
  d.set.layers = static_cast<int>(fields[0]);
  d.set.kv_heads = static_cast<int>(fields[1]);
  d.shape = {static_cast<int>(fields[2]), static_cast<int>(fields[3]), static_cast<int>(fields[4])};
  PQCACHE_RETURN_IF_ERROR(d.shape.Validate());
  PQCACHE_ASSIGN_OR_RETURN(d.set.rotation, json.GetString("rotation"));
  if (d.set.rotation != "none" && d.set.rotation != "pca" && d.set.rotation != "query") {
    return Status::Corruption("rotation is '" + d.set.rotation + "', expected none, pca or query");
  }
  if (json.Find("position_frequencies") != nullptr) {
    PQCACHE_ASSIGN_OR_RETURN(d.frequencies, json.GetInt("position_frequencies"));
    if (version == 1) {
      return Status::Corruption("has position_frequencies, which version 1 does not know");
    }
    if (d.frequencies < 1 || 2 * d.frequencies > d.shape.dim) {
      return Status::Corruption("position_frequencies is " + std::to_string(d.frequencies) +
                                ", expected 1 to " + std::to_string(d.shape.dim / 2));
    }
  }
  if (const Json* report = json.Find("report"); report != nullptr) d.set.report = report->Dump();
  return d;
}

size_t TransformFloats(const Description& d) {
  return d.set.rotation == "none" ? 0 : static_cast<size_t>(d.shape.dim) * d.shape.dim;
}

size_t MeanFloats(const Description& d) {
  return d.frequencies == 0 ? 0 : static_cast<size_t>(d.shape.dim);
}

size_t ResidualFloats(const Description& d) { return d.version == 1 ? 0 : 1; }

size_t BlockBytes(const Description& d) {
  const size_t centroids = static_cast<size_t>(d.shape.centroids()) * d.shape.dim;
  const size_t position = MeanFloats(d) + static_cast<size_t>(d.frequencies);
  return (ResidualFloats(d) + position + 2 * TransformFloats(d) + centroids) * sizeof(float) + 8;
}

Result<HeadCodebook> ParseBlock(const Description& d, std::string_view block) {
  const size_t bytes = BlockBytes(d) - 8;
  if (Checksum64(block.data(), bytes) != GetFixed64(block.data() + bytes)) {
    return Status::Corruption("checksum does not match the bytes");
  }
  std::vector<float> numbers(bytes / sizeof(float));
  std::memcpy(numbers.data(), block.data(), bytes);
  auto next = numbers.begin();
  const auto take = [&next](size_t count) {
    const auto begin = next;
    next += static_cast<std::ptrdiff_t>(count);
    return std::vector<float>(begin, next);
  };
  HeadCodebook::Parts parts;
  parts.shape = d.shape;
  if (ResidualFloats(d) > 0) parts.residual = take(1)[0];
  if (d.frequencies > 0) {
    std::vector<float> mean = take(MeanFloats(d));
    PQCACHE_ASSIGN_OR_RETURN(parts.position_mean,
                             PositionMean::Create(d.shape.dim, std::move(mean),
                                                  take(static_cast<size_t>(d.frequencies))));
  }
  parts.key_transform = take(TransformFloats(d));
  parts.query_transform = take(TransformFloats(d));
  parts.centroids = take(static_cast<size_t>(numbers.end() - next));
  return HeadCodebook::Create(std::move(parts));
}

Status CheckMagic(std::string_view bytes) {
  if (!bytes.starts_with(kCodebookMagic)) {
    return Status::Corruption("is not a codebook file: it does not start with " +
                              std::string(kCodebookMagic));
  }
  if (bytes.size() >= kHeaderBytes) return Status::Ok();
  return Status::Corruption("is cut off inside its header: has " + std::to_string(bytes.size()) +
                            " bytes, expected at least " + std::to_string(kHeaderBytes));
}

Status CheckHeader(std::string_view bytes) {
  if (Checksum64(bytes.data(), 24) != GetFixed64(bytes.data() + 24)) {
    return Status::Corruption("header is damaged: its checksum does not match");
  }
  if (const uint32_t version = GetFixed32(bytes.data() + 8);
      version < 1 || version > kNewestVersion) {
    return Status::Unsupported("has version " + std::to_string(version) + ", expected 1 to " +
                               std::to_string(kNewestVersion));
  }
  return Status::Ok();
}

Result<std::string_view> FindDescription(std::string_view bytes) {
  const size_t length = GetFixed32(bytes.data() + 12);
  if (length > bytes.size() - kHeaderBytes) {
    return Status::Corruption("is cut off inside its description: has " +
                              std::to_string(bytes.size()) + " bytes, expected at least " +
                              std::to_string(kHeaderBytes + length));
  }
  return bytes.substr(kHeaderBytes, length);
}

Status CheckDescription(std::string_view bytes, std::string_view text) {
  if (Checksum64(text.data(), text.size()) == GetFixed64(bytes.data() + 16)) return Status::Ok();
  return Status::Corruption("description is damaged: its checksum does not match");
}

// Blocks begin at `start`.
Status CheckLength(const Description& d, size_t start, size_t file_bytes) {
  const size_t blocks = static_cast<size_t>(d.set.layers) * static_cast<size_t>(d.set.kv_heads);
  const size_t expected = start + BlockBytes(d) * blocks;
  if (file_bytes == expected) return Status::Ok();
  return Status::Corruption("has " + std::to_string(file_bytes) + " bytes, expected " +
                            std::to_string(expected));
}

void Note(const Status& status, std::string part, uint64_t offset, CodebookFileInfo* info) {
  if (!status.ok()) info->damaged.push_back({std::move(part), "", offset, status.message()});
}

void InspectBlocks(const Description& d, std::string_view bytes, size_t start,
                   CodebookFileInfo* info) {
  const size_t block_bytes = BlockBytes(d);
  for (int i = 0; i < info->layers * info->kv_heads; ++i) {
    const size_t offset = start + block_bytes * static_cast<size_t>(i);
    if (offset >= bytes.size()) return;
    const std::string_view block = bytes.substr(offset, block_bytes);
    if (block.size() < block_bytes) {
      Note(Status::Corruption("is cut off: has " + std::to_string(block.size()) +
                              " bytes, expected " + std::to_string(block_bytes)),
           BlockName(i, info->kv_heads), offset, info);
      return;
    }
    const Status status = ParseBlock(d, block).status();
    Note(status, BlockName(i, info->kv_heads), offset, info);
    info->blocks.push_back({i / info->kv_heads, i % info->kv_heads, offset,
                            GetFixed64(block.data() + block_bytes - 8), !status.ok()});
  }
}

// The version of a damaged header may be damaged: then it is the one whose file would be as long.
Result<Description> ParseDamaged(std::string_view text, size_t file_bytes) {
  for (uint32_t version = kNewestVersion; version > 1; --version) {
    Result<Description> d = ParseDescription(version, text);
    if (d.ok() && CheckLength(*d, kHeaderBytes + text.size(), file_bytes).ok()) return d;
  }
  return ParseDescription(1, text);
}

// Of bytes with the magic and a version that is known, or a header that is damaged.
void InspectParts(std::string_view bytes, bool header_ok, CodebookFileInfo* info) {
  const Result<std::string_view> text = FindDescription(bytes);
  Note(text.status(), "description", kHeaderBytes, info);
  if (!text.ok()) return;
  Note(CheckDescription(bytes, *text), "description", kHeaderBytes, info);
  Result<Description> d =
      header_ok ? ParseDescription(info->version, *text) : ParseDamaged(*text, bytes.size());
  Note(d.status(), "description", kHeaderBytes, info);
  if (!d.ok()) return;
  info->version = d->version;
  info->described = true;
  info->model = d->set.model;
  info->rotation = d->set.rotation;
  info->report = d->set.report;
  info->layers = d->set.layers;
  info->kv_heads = d->set.kv_heads;
  info->shape = d->shape;
  info->position_mean = d->frequencies > 0;
  info->block_bytes = BlockBytes(*d);
  const size_t start = kHeaderBytes + text->size();
  InspectBlocks(*d, bytes, start, info);
  Note(CheckLength(*d, start, bytes.size()), "end of the file", bytes.size(), info);
}

}  // namespace

Result<std::string> EncodeCodebooks(const CodebookSet& set) {
  PQCACHE_CHECK(set.heads.size() == static_cast<size_t>(set.layers) * set.kv_heads,
                "one codebook per layer and KV head");
  const PqShape& shape = set.shape();
  const size_t frequencies = set.heads.front().position_mean().frequencies().size();
  for (const HeadCodebook& head : set.heads) {
    PQCACHE_CHECK(head.shape() == shape, "one shape for all heads");
    PQCACHE_CHECK(head.key_transform().empty() == (set.rotation == "none"),
                  "transforms as the rotation says");
    PQCACHE_CHECK(head.position_mean().frequencies().size() == frequencies,
                  "as many frequencies for all heads");
  }
  const bool residuals =
      std::ranges::any_of(set.heads, [](const HeadCodebook& head) { return head.residual() > 0; });
  const uint32_t version = frequencies > 0 || residuals ? kNewestVersion : 1;
  Json description;
  description.Set("model", set.model.Hex()).Set("layers", set.layers).Set("kv_heads", set.kv_heads);
  description.Set("dim", shape.dim).Set("subspaces", shape.subspaces).Set("bits", shape.bits);
  description.Set("rotation", set.rotation);
  if (frequencies > 0) description.Set("position_frequencies", frequencies);
  if (!set.report.empty()) {
    // One level less than a reader allows, because the report lies inside the description.
    const JsonLimits limits = {.max_depth = JsonLimits{}.max_depth - 1};
    PQCACHE_ASSIGN_OR_RETURN(Json report, Json::Parse(set.report, limits));
    description.Set("report", std::move(report));
  }
  const std::string text = description.Dump();
  std::string out(kCodebookMagic);
  PutFixed32(&out, version);
  PutFixed32(&out, static_cast<uint32_t>(text.size()));
  PutFixed64(&out, Checksum64(text.data(), text.size()));
  PutFixed64(&out, Checksum64(out.data(), out.size()));
  out += text;
  for (const HeadCodebook& head : set.heads) {
    const size_t start = out.size();
    const float residual = head.residual();
    if (version > 1) AppendFloats({&residual, 1}, &out);
    AppendFloats(head.position_mean().mean(), &out);
    AppendFloats(head.position_mean().frequencies(), &out);
    AppendFloats(head.key_transform(), &out);
    AppendFloats(head.query_transform(), &out);
    AppendFloats(head.centroids(), &out);
    PutFixed64(&out, Checksum64(out.data() + start, out.size() - start));
  }
  return out;
}

Result<std::shared_ptr<const CodebookSet>> DecodeCodebooks(std::string_view bytes) {
  PQCACHE_RETURN_IF_ERROR(CheckMagic(bytes));
  PQCACHE_RETURN_IF_ERROR(CheckHeader(bytes));
  PQCACHE_ASSIGN_OR_RETURN(const std::string_view text, FindDescription(bytes));
  PQCACHE_RETURN_IF_ERROR(CheckDescription(bytes, text));
  PQCACHE_ASSIGN_OR_RETURN(Description d, ParseDescription(GetFixed32(bytes.data() + 8), text));
  const size_t start = kHeaderBytes + text.size();
  PQCACHE_RETURN_IF_ERROR(CheckLength(d, start, bytes.size()));
  for (int i = 0; i < d.set.layers * d.set.kv_heads; ++i) {
    Result<HeadCodebook> head =
        ParseBlock(d, bytes.substr(start + BlockBytes(d) * static_cast<size_t>(i)));
    if (!head.ok()) return head.status().Annotate(BlockName(i, d.set.kv_heads));
    d.set.heads.push_back(std::move(*head));
  }
  return std::make_shared<const CodebookSet>(std::move(d.set));
}

Status SaveCodebooks(const CodebookSet& set, const std::string& path) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string bytes, EncodeCodebooks(set));
  return WriteFileAtomically(path, bytes);
}

Result<std::shared_ptr<const CodebookSet>> LoadCodebooks(const std::string& path) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxFileBytes));
  Result<std::shared_ptr<const CodebookSet>> set = DecodeCodebooks(bytes);
  if (!set.ok()) return set.status().Annotate(path);
  return set;
}

Result<CodebookFileInfo> InspectCodebooks(std::string_view bytes) {
  PQCACHE_RETURN_IF_ERROR(CheckMagic(bytes));
  const Status header = CheckHeader(bytes);
  if (header.code() == StatusCode::kUnsupported) return header;
  CodebookFileInfo info;
  info.version = GetFixed32(bytes.data() + 8);
  info.file_bytes = bytes.size();
  Note(header, "header", 0, &info);
  InspectParts(bytes, header.ok(), &info);
  return info;
}

Result<CodebookFileInfo> InspectCodebookFile(const std::string& path) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxFileBytes));
  Result<CodebookFileInfo> info = InspectCodebooks(bytes);
  if (!info.ok()) return info.status().Annotate(path);
  return info;
}

}  // namespace pqcache
