// Never run: the compiler proves that WeChat's own typings fit what this package asks for.
/// <reference types="miniprogram-api-typings" />
import type { Wx } from "./wx.js";

export const real: Wx = wx;
