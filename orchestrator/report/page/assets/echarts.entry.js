// What the page uses of Apache ECharts. README.md has the command that makes echarts.min.js of it.
import { init, use, version } from 'echarts/core';
import { CustomChart, LineChart, ParallelChart, ScatterChart } from 'echarts/charts';
import { DataZoomInsideComponent, GridComponent, LegendComponent, MarkLineComponent, ParallelComponent, TooltipComponent } from 'echarts/components';
import { LabelLayout } from 'echarts/features';
import { CanvasRenderer } from 'echarts/renderers';

use([
  CanvasRenderer, CustomChart, DataZoomInsideComponent, GridComponent, LabelLayout, LegendComponent, LineChart, MarkLineComponent,
  ParallelChart, ParallelComponent, ScatterChart, TooltipComponent,
]);
export { init, version };
