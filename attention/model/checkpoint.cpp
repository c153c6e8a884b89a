#include "attention/model/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include "attention/model/safetensors_header.h"
#include "attention/model/shard_index.h"
#include "pqcache/base/coding.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/half.h"
#include "pqcache/base/json.h"

namespace pqcache::attention {
namespace {

constexpr uint64_t kFingerprintBytesPerTensor = uint64_t{64} << 10;

// A regular file, open for reading at any offset.
class InputFile {
 public:
  static Result<InputFile> Open(const std::string& path) {
    // O_NONBLOCK: opening a pipe must not wait for its writer.
    InputFile file(path, ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.fd_ < 0) return file.OsError("open");
    PQCACHE_ASSIGN_OR_RETURN(file.size_, file.CurrentSize());
    return file;
  }
  InputFile(InputFile&& other) noexcept
      : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}
  ~InputFile() {
    if (fd_ >= 0) ::close(fd_);
  }

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }

  Status ReadAt(uint64_t offset, void* out, uint64_t size) const {
    PQCACHE_ASSIGN_OR_RETURN(const uint64_t current, CurrentSize());
    if (current != size_) {
      return Status::IoError(path_ + ": has " + std::to_string(current) + " bytes, expected the " +
                             std::to_string(size_) + " it had when it was opened");
    }
    uint64_t done = 0;
    while (done < size) {
      const ssize_t n = ::pread(fd_, static_cast<char*>(out) + done, size - done,
                                static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return OsError("read");
      if (n == 0) return Status::IoError(path_ + ": ended while it was read");
      done += static_cast<uint64_t>(n);
    }
    return Status::Ok();
  }

 private:
  InputFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  Status OsError(const char* action) const {
    const int error = errno;
    std::string message = path_ + ": cannot " + action + ": " + std::strerror(error);
    return error == ENOENT ? Status::NotFound(std::move(message))
                           : Status::IoError(std::move(message));
  }
  Result<uint64_t> CurrentSize() const {
    struct stat info;
    if (::fstat(fd_, &info) != 0) return OsError("stat");
    if (!S_ISREG(info.st_mode)) {
      return Status::InvalidArgument(path_ + ": is not a regular file as expected");
    }
    return static_cast<uint64_t>(info.st_size);
  }

  std::string path_;
  int fd_;
  uint64_t size_ = 0;
};

Result<SafetensorsHeader> ReadHeader(const InputFile& file) {
  std::string start(std::min<uint64_t>(file.size(), 64), '\0');
  PQCACHE_RETURN_IF_ERROR(file.ReadAt(0, start.data(), start.size()));
  Result<uint64_t> length = ParseSafetensorsLength(start, file.size());
  if (!length.ok()) return length.status().Annotate(file.path());

  std::string json(*length, '\0');
  PQCACHE_RETURN_IF_ERROR(file.ReadAt(8, json.data(), json.size()));
  Result<SafetensorsHeader> header = ParseSafetensorsHeader(json, file.size() - 8 - *length);
  if (!header.ok()) return header.status().Annotate(file.path());
  for (auto& [name, info] : header->tensors) info.offset += 8 + *length;
  return header;
}

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

float WidenAt(const char* element, DType dtype) {
  if (dtype == DType::kF64) {
    return static_cast<float>(std::bit_cast<double>(GetFixed64(element)));
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(element);
  const auto half = static_cast<uint16_t>(bytes[0] | (bytes[1] << 8));
  return dtype == DType::kBF16 ? BFloat16ToFloat(half) : HalfToFloat(half);
}

}  // namespace

struct Checkpoint::Impl {
  std::vector<InputFile> files;
  std::map<std::string, TensorInfo, std::less<>> tensors;
  std::map<std::string, std::string> metadata;

  Status AddFile(const std::string& path);
  Status AddShards(const std::string& dir, const std::string& index_path);
  Status AddDirectory(const std::string& dir);
  Status ReadBytes(const TensorInfo& info, void* out, uint64_t size) const {
    return files[static_cast<size_t>(info.file)].ReadAt(info.offset, out, size);
  }
};

Status Checkpoint::Impl::AddFile(const std::string& path) {
  PQCACHE_ASSIGN_OR_RETURN(InputFile file, InputFile::Open(path));
  PQCACHE_ASSIGN_OR_RETURN(SafetensorsHeader header, ReadHeader(file));
  if (files.empty()) metadata = std::move(header.metadata);
  for (auto& [name, info] : header.tensors) {
    info.file = static_cast<int>(files.size());
    const auto [old, added] = tensors.try_emplace(name, std::move(info));
    if (!added) {
      return Status::Corruption(path + ": tensor \"" + name + "\" is also in " +
                                files[static_cast<size_t>(old->second.file)].path() +
                                ", expected it in one file");
    }
  }
  files.push_back(std::move(file));
  return Status::Ok();
}

Status Checkpoint::Impl::AddShards(const std::string& dir, const std::string& index_path) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string json, ReadFile(index_path, JsonLimits().max_bytes));
  const auto shard_of = ParseShardIndex(json);
  if (!shard_of.ok()) return shard_of.status().Annotate(index_path);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : *shard_of) shards.insert(shard);
  for (const std::string& shard : shards) PQCACHE_RETURN_IF_ERROR(AddFile(dir + "/" + shard));

  for (const auto& [tensor, shard] : *shard_of) {
    const std::string path = dir + "/" + shard;
    const auto found = tensors.find(tensor);
    if (found == tensors.end() || files[static_cast<size_t>(found->second.file)].path() != path) {
      return Status::Corruption(path + ": has no tensor \"" + tensor +
                                "\", expected it there from " + index_path);
    }
  }
  return Status::Ok();
}

Status Checkpoint::Impl::AddDirectory(const std::string& dir) {
  const std::string single = dir + "/model.safetensors";
  const std::string index = dir + "/model.safetensors.index.json";
  if (Exists(single)) return AddFile(single);
  if (Exists(index)) return AddShards(dir, index);
  for (const char* pickled : {"/pytorch_model.bin", "/pytorch_model.bin.index.json"}) {
    if (!Exists(dir + pickled)) continue;
    return Status::Unsupported(dir + pickled +
                               ": is a pickled checkpoint, expected safetensors; convert it with "
                               "save_pretrained(..., safe_serialization=True) of transformers");
  }
  return Status::NotFound(single +
                          ": is absent, and so is model.safetensors.index.json beside it; "
                          "expected one of them");
}

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Result<Checkpoint> Checkpoint::Open(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  std::error_code ignored;
  const bool directory = std::filesystem::is_directory(path, ignored);
  PQCACHE_RETURN_IF_ERROR(directory ? impl->AddDirectory(path) : impl->AddFile(path));
  return Checkpoint(std::move(impl));
}

const TensorInfo* Checkpoint::Find(std::string_view name) const {
  const auto found = impl_->tensors.find(name);
  return found == impl_->tensors.end() ? nullptr : &found->second;
}

const std::map<std::string, TensorInfo, std::less<>>& Checkpoint::tensors() const {
  return impl_->tensors;
}

const std::map<std::string, std::string>& Checkpoint::metadata() const { return impl_->metadata; }

Status Checkpoint::Read(std::string_view name, void* out, uint64_t size) const {
  const TensorInfo* info = Find(name);
  const std::string subject = "tensor \"" + std::string(name) + "\"";
  if (info == nullptr) return Status::NotFound(subject + " is absent, expected in the checkpoint");
  if (!info->readable) {
    return Status::Unsupported(subject + " has dtype " + info->dtype_name +
                               ", expected F32, BF16, F16, F64, I64, I32 or U8");
  }
  if (size != info->bytes) {
    return Status::InvalidArgument(subject + " was given room for " + std::to_string(size) +
                                   " bytes, expected " + std::to_string(info->bytes));
  }
  return impl_->ReadBytes(*info, out, size).Annotate(subject);
}

Result<std::vector<float>> Checkpoint::ReadFloats(std::string_view name) const {
  const TensorInfo* info = Find(name);
  if (info == nullptr) return Read(name, nullptr, 0);
  const size_t width = DTypeSize(info->dtype);
  const bool floating = info->dtype == DType::kF32 || info->dtype == DType::kBF16 ||
                        info->dtype == DType::kF16 || info->dtype == DType::kF64;
  if (!info->readable || !floating) {
    return Status::Unsupported("tensor \"" + std::string(name) + "\" has dtype " +
                               info->dtype_name + ", expected F32, BF16, F16 or F64");
  }
  std::vector<float> out(info->bytes / width);
  if (info->dtype == DType::kF32) {
    PQCACHE_RETURN_IF_ERROR(Read(name, out.data(), info->bytes));
    return out;
  }
  std::string bytes(info->bytes, '\0');
  PQCACHE_RETURN_IF_ERROR(Read(name, bytes.data(), info->bytes));
  for (size_t i = 0; i < out.size(); ++i) out[i] = WidenAt(&bytes[i * width], info->dtype);
  return out;
}

Result<Fingerprint> Checkpoint::ComputeFingerprint() const {
  // Every part has a length or a fixed size, so that no two checkpoints give the same text.
  std::string text;
  std::string head;
  for (const auto& [name, info] : impl_->tensors) {
    PutFixed64(&text, name.size());
    text += name;
    PutFixed64(&text, info.dtype_name.size());
    text += info.dtype_name;
    PutFixed64(&text, info.shape.size());
    for (const int64_t extent : info.shape) PutFixed64(&text, static_cast<uint64_t>(extent));
    head.resize(std::min(info.bytes, kFingerprintBytesPerTensor));
    PQCACHE_RETURN_IF_ERROR(impl_->ReadBytes(info, head.data(), head.size()));
    const Fingerprint digest = FingerprintOf(head);
    text.append(digest.bytes.begin(), digest.bytes.end());
  }
  return FingerprintOf(text);
}

}  // namespace pqcache::attention
