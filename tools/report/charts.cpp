#include "tools/report/charts.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace pqcache::tools {
namespace {

constexpr double kWidth = 480, kHeight = 280;
constexpr double kLeft = 56, kRight = 24, kTop = 14, kBottom = 44;

std::string Place(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f", value);
  return text;
}

std::string Text(double x, double y, std::string_view anchor, const std::string& text) {
  return "<text x=\"" + Place(x) + "\" y=\"" + Place(y) + "\" text-anchor=\"" +
         std::string(anchor) + "\">" + Escape(text) + "</text>";
}

std::string Open(double width, double height, const std::string& title) {
  // Letters grow with the picture: not beyond a fifth.
  return "<svg style=\"max-width:" + Place(1.2 * width) + "px\" viewBox=\"0 0 " + Place(width) +
         " " + Place(height) + "\" role=\"img\" aria-label=\"" + Escape(title) + "\">";
}

std::string Figure(const std::string& title, const std::string& body) {
  return "<figure><figcaption>" + Escape(title) + "</figcaption>" + body + "</figure>\n";
}

// A step of 1, 2 or 5 times a power of ten that cuts a range into about four.
double NiceStep(double range) {
  const double raw = range / 4, power = std::pow(10.0, std::floor(std::log10(raw)));
  const double share = raw / power;
  return power * (share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10);
}

struct Axis {
  double low = 0, high = 1, step = 0.25;

  Axis(double least, double most, bool from_zero) {
    if (from_zero) least = std::min(0.0, least);
    if (most <= least) most = least + (least == 0 ? 1 : std::abs(least) / 10);
    step = NiceStep(most - least);
    low = std::floor(least / step) * step;
    high = std::ceil(most / step - 1e-9) * step;
  }
  double Share(double value) const { return (value - low) / (high - low); }
  // Evenly spaced, both ends included.
  std::vector<double> Ticks() const {
    const int count = static_cast<int>(std::clamp(std::round((high - low) / step), 1.0, 20.0));
    std::vector<double> ticks;
    for (int i = 0; i <= count; ++i) ticks.push_back(low + (high - low) * i / count);
    return ticks;
  }
};

}  // namespace

std::string Escape(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped.push_back(c);
    }
  }
  return escaped;
}

std::string ShortNumber(double value, int digits) {
  if (value == 0 || !std::isfinite(value)) return value == 0 ? "0" : "-";
  const int whole = static_cast<int>(std::floor(std::log10(std::abs(value)))) + 1;
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", std::clamp(digits - whole, 0, 9), value);
  std::string number = text;
  if (number.find('.') == std::string::npos) return number;
  number.erase(number.find_last_not_of('0') + 1);
  if (number.back() == '.') number.pop_back();
  return number;
}

std::string DrawLines(const LineChart& chart) {
  double left = INFINITY, right = -INFINITY, least = INFINITY, most = -INFINITY;
  for (const Series& series : chart.series) {
    for (const auto& [x, y] : series.points) {
      left = std::min(left, x);
      right = std::max(right, x);
      least = std::min(least, y);
      most = std::max(most, y);
    }
  }
  if (!(left <= right)) return "";
  const Axis xs(left, right, false), ys(least, most, chart.from_zero);
  const auto x_at = [&](double x) { return kLeft + xs.Share(x) * (kWidth - kLeft - kRight); };
  const auto y_at = [&](double y) {
    return kHeight - kBottom - ys.Share(y) * (kHeight - kTop - kBottom);
  };
  std::string svg = Open(kWidth, kHeight, chart.title);
  for (const double y : ys.Ticks()) {
    svg += "<line class=\"grid\" x1=\"" + Place(kLeft) + "\" x2=\"" + Place(kWidth - kRight) +
           "\" y1=\"" + Place(y_at(y)) + "\" y2=\"" + Place(y_at(y)) + "\"/>";
    svg += Text(kLeft - 6, y_at(y) + 4, "end", ShortNumber(y, 4));
  }
  for (const double x : xs.Ticks()) {
    svg += Text(x_at(x), kHeight - kBottom + 18, "middle", ShortNumber(x, 4));
  }
  svg += Text((kLeft + kWidth - kRight) / 2, kHeight - 6, "middle", chart.x_label);
  svg += "<text class=\"axis\" transform=\"translate(13 " + Place((kTop + kHeight - kBottom) / 2) +
         ") rotate(-90)\" text-anchor=\"middle\">" + Escape(chart.y_label) + "</text>";
  std::string legend = "<ul class=\"legend\">";
  for (const Series& series : chart.series) {
    const std::string colour = "s" + std::to_string(series.colour);
    std::string path, dots;
    for (const auto& [x, y] : series.points) {
      path += (path.empty() ? "M" : "L") + Place(x_at(x)) + " " + Place(y_at(y));
      dots += "<circle class=\"" + colour + "\" cx=\"" + Place(x_at(x)) + "\" cy=\"" +
              Place(y_at(y)) + "\" r=\"3\"><title>" +
              Escape(series.name + ": " + ShortNumber(x, 4) + ", " + ShortNumber(y, 4)) +
              "</title></circle>";
    }
    svg += "<path class=\"line " + colour + "\" d=\"" + path + "\"/>" + dots;
    legend += "<li><span class=\"key " + colour + "\"></span>" + Escape(series.name) + "</li>";
  }
  return Figure(chart.title, svg + "</svg>" + legend + "</ul>");
}

std::string DrawHeatMap(const HeatMap& map) {
  constexpr double kCell = 44, kCellHeight = 26, kLabel = 76;
  const double width = kLabel + kCell * static_cast<double>(map.columns.size()) + 4;
  const double height = kCellHeight * static_cast<double>(map.rows.size()) + 44;
  std::string svg = Open(width, height, map.title);
  for (size_t r = 0; r < map.rows.size(); ++r) {
    const double y = kCellHeight * static_cast<double>(r) + 2;
    svg += Text(kLabel - 8, y + 17, "end", map.rows[r]);
    for (size_t c = 0; c < map.columns.size(); ++c) {
      const double value = map.values[r][c];
      if (value < 0) continue;
      const double x = kLabel + kCell * static_cast<double>(c);
      // Red over yellow to green.
      const double share = std::min(1.0, value);
      const double good = map.low_is_good ? 1 - share : share;
      const std::string hue = std::to_string(static_cast<int>(std::lround(120 * good)));
      svg +=
          "<rect class=\"cell\" x=\"" + Place(x) + "\" y=\"" + Place(y) + "\" width=\"" +
          Place(kCell - 2) + "\" height=\"" + Place(kCellHeight - 2) + "\" style=\"--hue:" + hue +
          "\"/>" +
          Text(x + kCell / 2 - 1, y + 17, "middle", ShortNumber(std::round(1000 * value) / 10, 3));
    }
  }
  const double below = kCellHeight * static_cast<double>(map.rows.size());
  for (size_t c = 0; c < map.columns.size(); ++c) {
    svg +=
        Text(kLabel + kCell * (static_cast<double>(c) + 0.5), below + 16, "middle", map.columns[c]);
  }
  svg += Text((kLabel + width) / 2, below + 36, "middle", map.column_label);
  return Figure(map.title, svg + "</svg>");
}

std::string DrawBars(const BarChart& chart) {
  if (chart.bars.empty()) return "";
  constexpr double kRow = 24, kLabel = 170;
  double most = 0;
  for (const BarChart::Bar& bar : chart.bars) most = std::max(most, bar.value);
  const double height = kRow * static_cast<double>(chart.bars.size()) + 4;
  std::string svg = Open(kWidth, height, chart.title);
  for (size_t i = 0; i < chart.bars.size(); ++i) {
    const BarChart::Bar& bar = chart.bars[i];
    const double y = kRow * static_cast<double>(i) + 2;
    const double width = most > 0 ? bar.value / most * (kWidth - kLabel - 64) : 0;
    svg += Text(kLabel - 8, y + 15, "end", bar.name);
    svg += "<rect class=\"bar s" + std::to_string(bar.colour) + "\" x=\"" + Place(kLabel) +
           "\" y=\"" + Place(y) + "\" width=\"" + Place(std::max(1.0, width)) + "\" height=\"" +
           Place(kRow - 6) + "\"/>";
    svg += Text(kLabel + width + 6, y + 15, "start", ShortNumber(bar.value) + " " + chart.unit);
  }
  return Figure(chart.title, svg + "</svg>");
}

}  // namespace pqcache::tools
