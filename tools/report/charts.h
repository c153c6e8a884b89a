#pragma once

// Charts as SVG: as wide as what holds them, colours from the page's style (classes s0, s1, ... of
// a series). Pure functions; text is escaped.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pqcache::tools {

// Text as part of HTML, in an attribute or outside.
std::string Escape(std::string_view text);

// At most `digits` significant ones, without an exponent.
std::string ShortNumber(double value, int digits = 3);

struct Series {
  std::string name;
  int colour = 0;
  std::vector<std::pair<double, double>> points;  // ascending in x
};

struct LineChart {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  bool from_zero = true;  // the y axis begins at 0
};
// With a legend. Empty without points.
std::string DrawLines(const LineChart& chart);

struct HeatMap {
  std::string title, row_label, column_label;
  std::vector<std::string> rows, columns;
  std::vector<std::vector<double>> values;  // [rows][columns], shares; below 0: none
  bool low_is_good = false;
};
std::string DrawHeatMap(const HeatMap& map);

struct BarChart {
  std::string title, unit;
  struct Bar {
    std::string name;
    int colour = 0;
    double value = 0;
  };
  std::vector<Bar> bars;
};
std::string DrawBars(const BarChart& chart);

}  // namespace pqcache::tools
