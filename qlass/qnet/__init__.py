"""The QNet: a value for each (history, action), learnt from exploration trees."""
